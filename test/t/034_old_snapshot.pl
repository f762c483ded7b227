# Somebody holds an old snapshot, so that no dead row version can be removed: what a
# discarding transaction costs stays the same, the ledger grows by no more than
# that transaction's version of a row, and stays exact.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

# From 17 on, new sessions take turns with the numbers that there are for sessions.
my $numbers = 15;
my $node = new_server('main', {}, "shared_preload_libraries = 'optout'\nautovacuum = off\nmax_connections = $numbers");
my $discarded = 0;

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll('{alice,bob}'::text[]), optout.opt_out('alice');
	CREATE TABLE event (user_id text);
	SELECT optout.guard('event');
	CREATE PROCEDURE discard(transactions int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. transactions LOOP
			INSERT INTO event VALUES ('alice');
			COMMIT;
		END LOOP;
	END $$});

# Pages of the ledger and of its index that the session has looked at.
sub pages_read
{
	my ($session) = @_;

	$session->query('SELECT pg_stat_force_next_flush()');
	$session->query('SELECT pg_stat_clear_snapshot()');
	return $session->query(q{
		SELECT heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read
		  FROM pg_statio_all_tables WHERE relid = 'optout.discard_ledger'::regclass});
}

# So many transactions that discard; returns how many pages each took.
sub pages_per_transaction
{
	my ($session, $transactions) = @_;
	my $before = pages_read($session);

	$session->query("CALL discard($transactions)");
	$discarded += $transactions;
	return (pages_read($session) - $before) / $transactions;
}

sub ledger
{
	return split /\|/, $node->safe_psql('postgres', q{
		SELECT count(*), sum(discarded), pg_relation_size('optout.discard_ledger') / current_setting('block_size')::int
		  FROM optout.discard_ledger});
}

my ($ingest, $report) = map { OptoutTest::Session->new($node) } 1 .. 2;

# before
pages_per_transaction($ingest, 10);
my $usual = pages_per_transaction($ingest, 1000);
my ($rows, $sum, $pages) = ledger();
is($sum, $discarded, 'exact');
# an hour may have ended meanwhile
cmp_ok($rows, '<=', 2, 'no old snapshot: one row');
cmp_ok($pages, '<=', 2, 'no old snapshot: versions are removed');

# an old snapshot
$report->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM event');
my @cost = map { pages_per_transaction($ingest, 1000) } 1 .. 5;
cmp_ok($_, '<', 1.5 * $usual + 0.5, "old snapshot: a transaction looks at $_ pages, as it did before ($usual)") for @cost;
($rows, $sum, $pages) = ledger();
is($sum, $discarded, 'old snapshot: exact');
cmp_ok($rows, '>', 1, 'old snapshot: goes on with other rows');
cmp_ok($rows, '<', 100, 'old snapshot: but not often');
cmp_ok($pages, '<', 100, 'old snapshot: as many versions in a page as fit');

# sessions that do not know where the row is, one for each transaction
my $connections = 200;
$node->command_ok([ 'pgbench', '--no-vacuum', '--connect', '--transactions', $connections, '--file', 
		do { my $file = $node->basedir . '/discard.sql'; append_to_file($file, "INSERT INTO event VALUES ('alice');\n"); $file }, 'postgres' ],
	'old snapshot: new sessions');
$discarded += $connections;
my ($rows_then, $sum_then) = ledger();
is($sum_then, $discarded, 'old snapshot: new sessions, exact');
# of each number, and again of each when the page is full where they have begun
cmp_ok($rows_then - $rows, '<=', 3 * $numbers, 'old snapshot: new sessions go on with the row that was started last');

# somebody has the rows locked as well, but not the next one
my $locker = OptoutTest::Session->new($node);
$locker->query('BEGIN; SELECT count(*) FROM (SELECT FROM optout.discard_ledger FOR UPDATE) l');
my ($rows_before) = ledger();
$ingest->query('CALL discard(300)');
$discarded += 300;
my ($rows_locked, $sum_locked) = ledger();
is($sum_locked, $discarded, 'rows are locked: exact');
cmp_ok($rows_locked - $rows_before, '<', 10, 'rows are locked: goes on with another row, not with one for each transaction');
$locker->query('COMMIT');
$locker->quit;

# a transaction that fails as it commits leaves the row as it was
$ingest->query('BEGIN');
$ingest->query("INSERT INTO event VALUES ('alice')");
$ingest->query('ROLLBACK');
$ingest->query("BEGIN; INSERT INTO event VALUES ('alice'); COMMIT");
$discarded++;
is((ledger())[1], $discarded, 'rolled back: exact');

# it is over: versions are removed again, and the rows of hours that have ended merged
$report->query('COMMIT');
$node->safe_psql('postgres', 'VACUUM optout.discard_ledger');
($rows_then) = ledger();
cmp_ok(pages_per_transaction($ingest, 1000), '<', 1.5 * $usual + 0.5, 'over: a transaction looks at as many pages as before');
($rows, $sum) = ledger();
is($sum, $discarded, 'over: exact');
cmp_ok($rows - $rows_then, '<=', 1, 'over: one row is enough');
$node->safe_psql('postgres', q{UPDATE optout.discard_ledger SET hour = '2026-01-01 00:00+00'; SELECT optout.compact_discards()});
is(join(' ', (ledger())[0, 1]), "1 $discarded", 'over: merged');
$_->quit for $ingest, $report;

$node->stop;
done_testing();
