# An opt-out that commits while a COPY runs: what arrives after the commit is
# discarded, what arrived before it is kept, and so for the opt-in.  Also within
# a REPEATABLE READ transaction, through a guard, and for prepared statements.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('stream');
my $begin_repeatable_read =
  'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class';

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(ARRAY['alice', 'bob']);
	CREATE TABLE plain (user_id text, phase text);
	CREATE TABLE guarded (user_id text, phase text);
	SELECT optout.guard('guarded');
	CREATE TABLE parted (user_id text, phase text) PARTITION BY LIST (phase);
	CREATE TABLE parted_all PARTITION OF parted DEFAULT;
	SELECT optout.guard('parted')});

# Both psql and the server collect rows before they pass them on, so each phase
# is followed by more of somebody else's rows than they keep.
my $filler = 1500;

sub lines
{
	my ($phase) = @_;

	return join('',
		map({ "$_\t$phase\n" } ('alice', 'bob') x 3),
		("carol\t" . 'x' x 90 . "\n") x $filler);
}

# Wait until the server has looked at this phase's rows of alice and bob, which
# it has once it has stored one that came later.
sub wait_for_phase
{
	my ($session, $kept_before) = @_;
	my $pid = $session->pid;

	$node->poll_query_until('postgres', qq{
		SELECT tuples_processed > $kept_before + 6
		  FROM pg_stat_progress_copy WHERE pid = $pid})
	  or die 'COPY makes no progress';
}

sub check_stream
{
	my ($what, $copy, $table, $begin) = @_;
	my $session = OptoutTest::Session->new($node);

	$session->query($begin) if defined $begin;
	$session->begin_copy($copy);

	$session->send(lines('1 before'));
	wait_for_phase($session, 0);
	$node->safe_psql('postgres', q{SELECT optout.opt_out('alice')});

	$session->send(lines('2 opted out'));
	wait_for_phase($session, 6 + $filler);
	$node->safe_psql('postgres', q{SELECT optout.opt_in('alice')});

	$session->send(lines('3 opted in'));
	$session->end_copy;
	$session->query('COMMIT') if defined $begin;
	$session->quit;

	is( stored($node, $table),
		'alice 1 before 3, alice 3 opted in 3, '
		  . 'bob 1 before 3, bob 2 opted out 3, bob 3 opted in 3',
		$what);
	is( $node->safe_psql('postgres', "SELECT count(*) FROM $table WHERE user_id = 'carol'"),
		3 * $filler,
		"$what: others' rows are all kept");
	$node->safe_psql('postgres', "TRUNCATE $table");
}

my $filter = 'COPY plain FROM STDIN WHERE optout.accepts(user_id)';

check_stream('COPY with filter', $filter, 'plain');
check_stream('COPY with filter, REPEATABLE READ', $filter, 'plain', $begin_repeatable_read);
check_stream('COPY into guarded table', 'COPY guarded FROM STDIN', 'guarded');
check_stream('COPY into guarded table, REPEATABLE READ',
	'COPY guarded FROM STDIN', 'guarded', $begin_repeatable_read);
check_stream('COPY into guarded partitions', 'COPY parted FROM STDIN', 'parted');

# One that is rolled back, and one not yet committed, change nothing.
{
	my $ingest = OptoutTest::Session->new($node);
	my $admin = OptoutTest::Session->new($node);

	$ingest->begin_copy($filter);
	$ingest->send(lines('1 before'));
	wait_for_phase($ingest, 0);
	$admin->query(q{BEGIN; SELECT optout.opt_out('alice')});
	$ingest->send(lines('2 not committed'));
	wait_for_phase($ingest, 6 + $filler);
	$admin->query('ROLLBACK');
	$ingest->send(lines('3 rolled back'));
	$ingest->end_copy;
	$_->quit for $ingest, $admin;

	is( stored($node, 'plain'),
		join(', ', map { ("$_ 1 before 3", "$_ 2 not committed 3", "$_ 3 rolled back 3") }
			  ('alice', 'bob')),
		'COPY with filter: an opt-out that is not committed discards nothing');
	$node->safe_psql('postgres', 'TRUNCATE plain');
}

# Binary format.
{
	my $file = $node->basedir . '/event.bin';

	$node->safe_psql('postgres', qq{
		SELECT optout.opt_out('alice');
		COPY (SELECT u, 'binary' FROM unnest('{alice,bob,alice,NULL}'::text[]) AS u)
			TO '$file' (FORMAT binary);
		COPY plain FROM '$file' (FORMAT binary) WHERE optout.accepts(user_id);
		COPY guarded FROM '$file' (FORMAT binary)});
	is( $node->safe_psql('postgres', qq{
			SELECT t, string_agg(coalesce(user_id, 'nobody'), ' ' ORDER BY user_id)
			  FROM (SELECT 'plain' AS t, * FROM plain UNION ALL SELECT 'guarded', * FROM guarded) AS s
			 GROUP BY t ORDER BY t}),
		"guarded|bob nobody\nplain|bob nobody",
		'binary COPY');
	$node->safe_psql('postgres', q{
		SELECT optout.opt_in('alice'); TRUNCATE plain, guarded});
}

# A statement prepared before the opt-out, with a plan that is kept.
for my $begin (undef, $begin_repeatable_read)
{
	my $what = defined $begin ? 'prepared INSERT, REPEATABLE READ' : 'prepared INSERT';
	my $session = OptoutTest::Session->new($node);

	$session->query(q{
		SET plan_cache_mode = force_generic_plan;
		PREPARE filtered AS INSERT INTO plain SELECT $1, $2 WHERE optout.accepts($1);
		PREPARE guarded AS INSERT INTO guarded VALUES ($1, $2)});
	$session->query($begin) if defined $begin;
	for my $phase ('1 before', '2 opted out', '3 opted in')
	{
		$node->safe_psql('postgres', q{SELECT optout.opt_out('alice')}) if $phase =~ /out/;
		$node->safe_psql('postgres', q{SELECT optout.opt_in('alice')}) if $phase =~ /in/;
		for my $user ('alice', 'bob')
		{
			$session->query("EXECUTE filtered('$user', '$phase')");
			$session->query("EXECUTE guarded('$user', '$phase')");
		}
	}
	$session->query('COMMIT') if defined $begin;
	$session->quit;

	for my $table ('plain', 'guarded')
	{
		is( stored($node, $table),
			'alice 1 before 1, alice 3 opted in 1, '
			  . 'bob 1 before 1, bob 2 opted out 1, bob 3 opted in 1',
			"$what: $table");
	}
	$node->safe_psql('postgres', 'TRUNCATE plain, guarded');
}

# Extended query protocol.
{
	my $script = $node->basedir . '/ingest.sql';

	append_to_file($script, <<'SQL');
\set n random(1, 1000000)
INSERT INTO plain SELECT u, 'pgbench' || :n FROM unnest('{alice,bob}'::text[]) AS u WHERE optout.accepts(u);
INSERT INTO guarded VALUES ('alice', 'pgbench' || :n), ('bob', 'pgbench' || :n);
SQL
	$node->safe_psql('postgres', q{SELECT optout.opt_out('alice')});
	$node->command_ok(
		[ 'pgbench', '-n', '-M', $_, '-c', 2, '-t', 20, '-f', $script, 'postgres' ],
		"pgbench -M $_")
	  for 'extended', 'prepared';
	is( $node->safe_psql('postgres', q{
			SELECT t, user_id, count(*)
			  FROM (SELECT 'plain' AS t, * FROM plain UNION ALL SELECT 'guarded', * FROM guarded) AS s
			 GROUP BY 1, 2 ORDER BY 1, 2}),
		"guarded|bob|80\nplain|bob|80",
		'extended query protocol');
}

$node->stop;
done_testing();
