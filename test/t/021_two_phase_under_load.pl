# Crashes between PREPARE TRANSACTION and COMMIT PREPARED, of opt-outs and of
# batches.  What is prepared outlives the crash, is in force once it is committed
# and not before, counts what it discarded then, and settle() waits for it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutLoad;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_server('main', {}, q{
shared_preload_libraries = 'optout'
max_prepared_transactions = 20
autovacuum = off
});

sub crash
{
	$node->stop('immediate');
	$node->start;
}

my $load = OptoutLoad->new($node, two_phase => 1);
$load->setup;

#
# One by one.  A batch is let through before an opt-out, one discards after it,
# and the opt-out itself is prepared; a crash at each step.
#
my $discards = 'SELECT coalesce(sum(discarded), 0) FROM optout.discards';
my $stored = q{SELECT string_agg(user_id, ' ' ORDER BY batch) FROM guarded};

$node->safe_psql('postgres', q{
	SELECT optout.enroll('{alice,bob}'::text[]), optout.opt_out('bob');
	BEGIN;
	INSERT INTO guarded VALUES (1, 'alice'), (2, 'bob');
	PREPARE TRANSACTION 'before';
	BEGIN;
	SELECT optout.opt_out('alice');
	SAVEPOINT s;
	INSERT INTO guarded VALUES (3, 'alice');
	ROLLBACK TO s;
	INSERT INTO guarded VALUES (4, 'alice'), (5, 'carol');
	PREPARE TRANSACTION 'opt-out'});
crash();
is($node->safe_psql('postgres', "SELECT optout.is_opted_out('alice'), optout.is_opted_out('bob'); $discards"),
	"f|t\n0", 'prepared, then a crash: neither in force nor counted');

$node->safe_psql('postgres', "COMMIT PREPARED 'opt-out'");
is($node->safe_psql('postgres', "SELECT optout.is_opted_out('alice'); $discards; $stored"),
	"t\n1\ncarol", 'opt-out committed: in force, its discards counted');
is($node->safe_psql('postgres', 'SELECT optout.verify()'), '0', 'verify');
crash();

my $settler = OptoutTest::Session->new($node);
$settler->begin('CALL optout.settle()');
$settler->wait_for_lock($node);
is($node->safe_psql('postgres', "BEGIN; INSERT INTO guarded VALUES (6, 'alice'), (7, 'carol') RETURNING user_id; ROLLBACK"),
	'carol', 'nobody waits for settle(), which waits for the batch prepared before the crash');
$node->safe_psql('postgres', "COMMIT PREPARED 'before'");
$settler->finish;
$settler->quit;
is($node->safe_psql('postgres', "$discards; $stored"), "2\nalice carol", 'batch that was let through before the opt-out');
crash();
is($node->safe_psql('postgres', "$discards; $stored"), "2\nalice carol", 'crash after COMMIT PREPARED');

# rolled back
$node->safe_psql('postgres', q{
	SELECT optout.opt_in('{alice,bob}'::text[]);
	BEGIN;
	SELECT optout.opt_out('{alice,bob}'::text[]);
	INSERT INTO guarded VALUES (8, 'alice'), (9, 'bob');
	PREPARE TRANSACTION 'undone'});
crash();
is($node->safe_psql('postgres', q{ROLLBACK PREPARED 'undone'; SELECT optout.accepts('alice'), optout.accepts('bob')}),
	't|t', 'ROLLBACK PREPARED after a crash: not in force');
is($node->safe_psql('postgres', "$discards; SELECT optout.verify()"), "2\n0", 'ROLLBACK PREPARED after a crash: not counted');

#
# Many at once
#
$node->safe_psql('postgres', q{
	TRUNCATE guarded, optout.discard_ledger;
	SELECT optout.forget('{alice,bob}'::text[])});
$load->connect;
for my $round (1 .. OptoutLoad::rounds(4))
{
	$load->run(20 + rand 40);
	usleep(rand 10_000);
	$node->stop('immediate');
	$load->lose;
	$node->start;
	$load->reconnect;
	$load->check("round $round");
}
$load->run_and_check(30, 'after all crashes');

$load->quit;
$node->stop;
done_testing();
