# A filter that grows while it is used, and one that is overfull; a memo that is
# full, and one that holds the whole table: slower, never wrong.  Answers with
# event times equal those of the table.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {}, q{
shared_preload_libraries = 'optout'
optout.filter_memory = 64kB
autovacuum = off
});
my $users = 100_000;

$node->safe_psql('postgres', qq{
	CREATE EXTENSION optout;
	INSERT INTO optout.product_user (organization, user_id)
	SELECT 'default', 'user ' || n FROM generate_series(1, $users + 1000) n;
	CREATE TABLE progress (upto int)});

# Users of this range whom accepts() discards, or takes in, though it should not.
sub missed { my ($from, $to) = @_; return "SELECT count(*) FROM generate_series($from, $to) n WHERE optout.accepts('user ' || n)" }
sub overdone { my ($from, $to) = @_; return "SELECT count(*) FROM generate_series($from, $to) n WHERE NOT optout.accepts('user ' || n)" }

my $counts = 'SELECT lookups_filter, lookups_memo, lookups_table FROM optout.status';

sub counted
{
	my ($session, $sql) = @_;
	my @before = split /\|/, $session->query($counts);
	my $result = $session->query($sql);
	my @after = split /\|/, $session->query($counts);

	return ($result, map { $after[$_] - $before[$_] } 0 .. 2);
}

#
# Growth through all seven levels, while another session asks all the time
#
my $asking = OptoutTest::Session->new($node);
my $old = OptoutTest::Session->new($node);

$old->query("SELECT optout.accepts('user 1')");
$asking->begin(qq{
	DO \$\$
	DECLARE
		upto int;
		missed bigint := 0;
		overdone bigint := 0;
		rounds int := 0;
	BEGIN
		LOOP
			SELECT max(p.upto) INTO upto FROM progress p;
			EXIT WHEN upto < 0;
			missed := missed + (SELECT count(*) FROM generate_series(greatest(1, upto - 500), upto) n WHERE optout.accepts('user ' || n))
				+ (SELECT count(*) FROM generate_series(1, upto, 1 + upto / 200) n WHERE optout.accepts('user ' || n));
			overdone := overdone + (SELECT count(*) FROM generate_series($users + 1, $users + 200) n WHERE NOT optout.accepts('user ' || n));
			rounds := rounds + 1;
		END LOOP;
		RAISE WARNING 'missed %, overdone %, several rounds: %', missed, overdone, rounds > 2;
	END \$\$});

my $from = 1;
my @rates;
for my $upto (10, 100, 500, 1000, 2000, 4000, 10_000, 20_000, 30_000, 50_000, $users)
{
	$node->safe_psql('postgres', qq{
		BEGIN; SELECT optout.opt_out(array_agg('user ' || n)) FROM generate_series($from, $upto) n;
		INSERT INTO progress VALUES ($upto); COMMIT});
	is($old->query(missed($upto > 1000 ? $upto - 999 : 1, $upto)), '0', "$upto opted out: nobody missed");
	is($old->query(overdone($upto + 1, $upto + 1000)), '0', "$upto opted out: nobody else discarded");
	is($old->query('SELECT optout.verify(), shared_filter FROM optout.status'), '0|ready', "$upto opted out: status");
	push @rates, $node->safe_psql('postgres', 'SELECT false_positive_rate FROM optout.status');
	$from = $upto + 1;
}
$node->safe_psql('postgres', 'DELETE FROM progress; INSERT INTO progress VALUES (-1)');
like(($asking->finish)[1], qr/missed 0, overdone 0, several rounds: t/, 'a session that asks while the filter grows');
$asking->quit;
cmp_ok($rates[0], '<', 0.001, 'hardly a false positive with few');
cmp_ok($rates[$_], '<', 0.01, 'few false positives while there is room') for 1 .. 8;
cmp_ok($rates[-1], '>', 0.05, 'many where there is none');
like("@rates", qr/^(0(\.\d{1,4})? ?){11}$/, 'rates have four digits');

my ($result, @by) = counted($old, overdone($users + 1, $users + 1000));
is($result, '0', 'overfull: exact');
ok($by[0] > 0 && $by[0] < 1000, "overfull: filter answers for some, what comes after it for others (@by)");
is($node->safe_psql('postgres', missed(1, 1000) . '; ' . missed($users - 999, $users) . '; ' . overdone($users + 1, $users + 1000)),
	"0\n0\n0", 'overfull: new session');

# and loaded anew
$old->quit;
$node->restart;
$old = OptoutTest::Session->new($node);
is($old->query(missed(1, 1000) . '; ' . missed($users - 999, $users) . '; ' . overdone($users + 1, $users + 1000)),
	"0\n0\n0", 'overfull: restart');
wait_until_ready($old);
is($old->query('SELECT optout.verify(), shared_filter FROM optout.status'), '0|ready', 'overfull: restart, status');

# optout.filter = off means that nothing but the table answers
$old->query('SET optout.filter = off');
($result, @by) = counted($old, missed(1, 500) . '; ' . overdone($users + 1, $users + 500));
is("$result; @by", "0\n0; 0 0 1000", 'optout.filter = off: the table answers');
is($old->query('SELECT shared_filter, optout.verify() FROM optout.status; RESET optout.filter'), 'off|0', 'optout.filter = off: status');

#
# A memo that is full
#
my $memo_size = q{SELECT coalesce(sum(total_bytes), 0) FROM pg_backend_memory_contexts WHERE name = 'optout memo'};

$old->quit;
$old = OptoutTest::Session->new($node);
$old->query(q{SET work_mem = '64kB'; SET hash_mem_multiplier = 1});
for (1 .. 2)
{
	($result, @by) = counted($old, missed(1, 20_000));
	is($result, '0', 'full memo');
	cmp_ok($old->query($memo_size), '<', 256 * 1024, 'full memo: memory is bounded');
	is($old->query(overdone($users + 1, $users + 1000)), '0', 'full memo: nobody else discarded');
}

#
# A memo that holds the whole table
#
$old->query(q{SET work_mem = '64MB'});
$old->query(missed(1, 20_000));
($result, @by) = counted($old, missed(1, $users));
is("$result $by[2]", '0 0', 'memo of the whole table: the table is not asked any more');
($result, @by) = counted($old, overdone($users + 1, $users + 1000));
is("$result $by[2]", '0 0', 'memo of the whole table: nor about those whom it does not hold');

my $open = OptoutTest::Session->new($node);
$open->query(q{SET work_mem = '64MB'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class});
$open->query(missed(1, 20_000));
for my $change (
	[ "SELECT optout.opt_in('user 5')", 5, 't' ], [ "SELECT optout.opt_out('user 5')", 5, 'f' ],
	[ "SELECT optout.opt_out('user " . ($users + 1) . "')", $users + 1, 'f' ],
	[ "SELECT optout.forget('user 6', force => true)", 6, 't' ],
	[ "DELETE FROM optout.opt_out_period WHERE user_id = 'user 7'", 7, 't' ],
	[ "UPDATE optout.opt_out_period SET user_id = 'user " . ($users + 2) . "' WHERE user_id = 'user 8'", 8, 't' ],
	[ "SELECT 1", $users + 2, 'f' ])
{
	my ($sql, $user, $accepted) = @$change;

	for my $session ($old, $open)
	{
		$session->query(missed(1, 20_000));
		($result, @by) = counted($session, missed(10_000, 20_000));
		is("$result $by[2]", '0 0', 'memo of the whole table, again');
	}
	$node->safe_psql('postgres', $sql);
	for my $session ($old, $open)
	{
		my $what = $session == $old ? 'old session' : 'in a transaction';

		is($session->query("SELECT optout.accepts('user $user')"), $accepted, "memo of the whole table, then $sql: $what");
		is($session->query(missed(9, 5000) . '; ' . overdone($users + 100, $users + 1000)), "0\n0",
			"memo of the whole table, then $sql: $what, others");
	}
}

# a change that is under way while others read all of the table, and then committed
my $writer = OptoutTest::Session->new($node);
$writer->query("BEGIN; SELECT optout.opt_in('user 9')");
for my $ended (0, 1)
{
	$writer->query('COMMIT') if $ended;
	is($_->query("SELECT optout.accepts('user 9')"), $ended ? 't' : 'f',
		'memo of the whole table, another transaction ' . ($ended ? 'has ended' : 'goes on'))
	  for $old, $open;
	$_->query(missed(10, 20_000)) for $old, $open;
}
$writer->quit;

# one's own changes
$open->query('COMMIT');
$open->query(missed(9, 20_000));
for my $step ([ "BEGIN; SELECT optout.opt_in('user 20')", 't' ], [ 'SAVEPOINT s', 't' ],
	[ "SELECT optout.opt_out('user 20')", 'f' ], [ 'ROLLBACK TO s', 't' ],
	[ 'ROLLBACK', 'f' ], [ "BEGIN; SELECT optout.opt_in('user 20'); PREPARE TRANSACTION 'none'", 'f' ])
{
	# prepared transactions are switched off, which makes it an error
	$open->begin($step->[0]);
	$open->finish;
	is($open->query("SELECT optout.accepts('user 20')"), $step->[1], "memo of the whole table, own changes: $step->[0]");
	is($open->query(missed(21, 20_000)), '0', "memo of the whole table, own changes: $step->[0], others");
}
$_->quit for $old, $open;

# The table has many more rows than it seems to have: what the memo can hold of
# it is not all of it.
$node->safe_psql('postgres', q{
	CREATE TABLE state AS TABLE optout.opt_out_period;
	TRUNCATE optout.opt_out_period;
	ALTER TABLE optout.opt_out_period ALTER reason SET STORAGE PLAIN;
	INSERT INTO optout.opt_out_period
	SELECT 'another', 'user ' || n, now(), NULL, 'x', NULL, repeat('x', 7000) FROM generate_series(1, 50) n;
	VACUUM ANALYZE optout.opt_out_period;
	INSERT INTO optout.opt_out_period
	SELECT 'default', 'user ' || n, now(), NULL, 'x' FROM generate_series(1, 10000) n});
for my $work_mem ('64kB', '64MB')
{
	my $session = OptoutTest::Session->new($node);

	$session->query("SET work_mem = '$work_mem'; SET hash_mem_multiplier = 1");
	is($session->query(missed(1, 10_000) . '; ' . missed(1, 10_000) . '; ' . overdone($users + 1, $users + 1000)), "0\n0\n0",
		"table larger than it seems, memo of $work_mem");
	$session->quit;
}
$node->safe_psql('postgres', 'TRUNCATE optout.opt_out_period; INSERT INTO optout.opt_out_period TABLE state');

#
# Event times
#
my $seed = $ENV{OPTOUT_TEST_SEED} // time % 1_000_000;
note "OPTOUT_TEST_SEED=$seed";

# users with 0, 1, 2 and 5 periods, the last of them open for some; no two users
# have periods at the same time
$node->safe_psql('postgres', qq{
	TRUNCATE optout.opt_out_period;
	SELECT setseed($seed / 1000000.0);
	CREATE TABLE person AS SELECT n, 'user ' || n AS u, (ARRAY[0, 1, 2, 5])[n % 4 + 1] AS periods FROM generate_series(1, 800) n;
	INSERT INTO optout.opt_out_period
	SELECT 'default', u, t, CASE WHEN n % 7 > 0 OR p < periods THEN t + interval '12 hours' END, 'x',
	       CASE WHEN n % 7 > 0 OR p < periods THEN 'x' END
	  FROM person, generate_series(1, periods) p,
	       LATERAL (SELECT timestamptz '1900-01-01' + n * interval '6 days' + p * interval '1 day' AS t) AS s;
	CREATE TABLE probe AS
	SELECT u, CASE i WHEN 0 THEN NULL
		WHEN 1 THEN timestamptz '1900-01-01' + n * interval '6 days' + trunc(random() * 6 + 1) * interval '1 day'
		WHEN 2 THEN timestamptz '1900-01-01' + n * interval '6 days' + trunc(random() * 6 + 1) * interval '1 day' + interval '12 hours'
		WHEN 3 THEN timestamptz '1900-01-01' + n * interval '6 days' + trunc(random() * 6 + 1) * interval '1 day' - interval '1 microsecond'
		WHEN 4 THEN timestamptz '1900-01-01' + trunc(random() * 800) * interval '6 days' + random() * interval '6 days'
		WHEN 5 THEN '-infinity' WHEN 6 THEN 'infinity'
		ELSE timestamptz '1900-01-01' + n * interval '6 days' + random() * interval '7 days' END AS t
	  FROM person, generate_series(0, 9) i
	 ORDER BY random();
	SET optout.filter = off;
	ALTER TABLE probe ADD COLUMN accepted boolean;
	UPDATE probe SET accepted = optout.accepts(u, NULL, t)});
my $differ = q{
	SELECT count(*), count(*) FILTER (WHERE optout.accepts(u, NULL, t) <> accepted),
		   count(*) FILTER (WHERE optout.is_opted_out(u, NULL, t) = accepted) FROM probe};
like($node->safe_psql('postgres', 'SELECT count(*) FILTER (WHERE accepted) > 1000, count(*) FILTER (WHERE NOT accepted) > 1000 FROM probe'),
	qr/^t\|t$/, 'event times: both answers are frequent');
for my $work_mem ('64kB', '256kB', '64MB')
{
	my $session = OptoutTest::Session->new($node);

	$session->query("SET work_mem = '$work_mem'; SET hash_mem_multiplier = 1");
	is($session->query("$differ; $differ"), "8000|0|0\n8000|0|0", "event times, memo of $work_mem");
	$session->quit;
}

# A session that is told of others' opt-outs does not read the table's definition anew.
{
	my ($session, $admin) = map { OptoutTest::Session->new($node) } 1 .. 2;
	my $reads = q{SELECT pg_stat_force_next_flush(); SELECT idx_scan FROM pg_stat_sys_indexes WHERE indexrelname = 'pg_trigger_tgrelid_tgname_index'};
	my $read = sub { $session->query($reads) =~ /(\d+)$/ ? $1 : die };

	$session->query("SELECT optout.accepts('user 1', NULL, '1900-01-02')");
	$admin->query("SELECT optout.opt_out('user " . ($users + 200) . "')");
	my $before = $read->();
	for my $n (1 .. 20)
	{
		$admin->query("SELECT optout.opt_out('user " . ($users + 200 + $n) . "')");
		is($session->query("SELECT optout.accepts('user " . ($users + 200 + $n) . "')"), 'f', 'told of an opt-out');
	}
	my $after = $read->();

	# once, at times, for other reasons
	cmp_ok($after - $before, '<', 10, 'no definition is read anew');
	$_->quit for $session, $admin;
}

# Lists of ended periods count as well.
$node->safe_psql('postgres', q{
	TRUNCATE optout.opt_out_period;
	INSERT INTO optout.opt_out_period
	SELECT 'default', 'user ' || n, t, t + interval '12 hours', 'x', 'x'
	  FROM generate_series(1, 500) n, generate_series(1, 200) p,
	       LATERAL (SELECT timestamptz '1900-01-01' + p * interval '1 day' AS t) AS s});
$old = OptoutTest::Session->new($node);
$old->query(q{SET work_mem = '64kB'; SET hash_mem_multiplier = 1});
is($old->query(q{SELECT count(*) FROM generate_series(1, 500) n WHERE NOT optout.accepts('user ' || n, NULL, '1900-01-02')}), '500', 'many periods');
cmp_ok($old->query($memo_size), '<', 256 * 1024, 'many periods: memory is bounded');
$old->quit;

# The look-up that has the whole table read is answered like any other.  These
# users are never opted out at the same time, and are asked for in another order
# than the table has them.
$node->safe_psql('postgres', q{
	TRUNCATE optout.opt_out_period;
	INSERT INTO optout.opt_out_period
	SELECT 'default', 'user ' || n, t, t + interval '12 hours', 'x', 'x'
	  FROM generate_series(1, 300) n, generate_series(1, 5) p,
	       LATERAL (SELECT timestamptz '1900-01-01' + n * interval '6 days' + p * interval '1 day' AS t) AS s});
for my $order ('n DESC', "md5('a' || n)", "md5('b' || n)", "md5('c' || n)")
{
	for my $period (1 .. 5)
	{
		my $session = OptoutTest::Session->new($node);
		my $ask = qq{
			SELECT count(*), string_agg(n::text, ' ') FILTER (
				WHERE optout.accepts('user ' || n, NULL, timestamptz '1900-01-01' + n * interval '6 days' + $period * interval '1 day'))
			  FROM (SELECT n FROM generate_series(1, 300) n ORDER BY $order OFFSET 0) AS s};

		$session->query("SET work_mem = '64MB'");
		($result, @by) = counted($session, $ask);
		is($result, '300|', "whole table read on the way, by $order, period $period");
		cmp_ok($by[2], '<', 300, "whole table read on the way, by $order, period $period: the memo answers the rest");
		$session->quit;
	}
}

# Whoever is cancelled while reading the whole table does not try again at once, but
# goes by look-ups for longer than before.
{
	my $session = OptoutTest::Session->new($node);
	my $ask = sub { my ($upto) = @_; return "SELECT count(*) FROM generate_series(1, $upto) n WHERE NOT optout.accepts('user ' || n, NULL, '1900-01-02')" };
	# the look-up that is the 256th, and then has it read
	my $cancelled = q{SELECT pg_cancel_backend(pg_backend_pid()), optout.accepts('user 256', NULL, '1900-01-02')};

	$node->safe_psql('postgres', q{
		TRUNCATE optout.opt_out_period;
		INSERT INTO optout.opt_out_period
		SELECT 'default', 'user ' || n, '1900-01-01', '1900-01-03', 'x', 'x' FROM generate_series(1, 16000) n;
		VACUUM ANALYZE optout.opt_out_period});
	wait_until_ready($session);
	$session->query("SET work_mem = '64MB'");
	($result, @by) = counted($session, $ask->(255));
	is("$result $by[2]", '255 255', 'look-ups, before the whole table is read');
	like($session->query_fails($cancelled), qr/ERROR:  57014/, 'cancelled while it is read');
	($result, @by) = counted($session, $ask->(255));
	is("$result $by[2]", '255 255', 'cancelled while it is read: nothing is left');
	like($session->query_fails($cancelled), qr/ERROR:  57014/, 'cancelled where it would have been read');
	($result, @by) = counted($session, $ask->(256));
	is("$result $by[2]", '256 0', 'cancelled where it would have been read: all is left');
	($result, @by) = counted($session, $ask->(16000));
	is($result, '16000', 'read after twice as many look-ups');
	cmp_ok($by[2], '<', 512, 'read after twice as many look-ups: the memo answers the rest');
	$session->quit;
}

$node->stop;
done_testing();
