# Row estimates of the planner, and the same answers from parallel workers as
# without, by filter, memo and table; what a query in parallel mode reads under its
# own older snapshot is not remembered.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nautovacuum = off\nmax_worker_processes = 8\n");

# One user in a hundred is opted out; some have many events, most have one.
$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	CREATE TABLE event AS
	SELECT 'user ' || n AS t, md5(n::text)::uuid AS u, n::bigint AS b
	  FROM (SELECT n FROM generate_series(1, 50000) n
			UNION ALL SELECT n * 100 FROM generate_series(1, 20) n, generate_series(1, 25)
			UNION ALL SELECT n * 100 + 1 FROM generate_series(1, 20) n, generate_series(1, 2475)) AS s;
	ALTER TABLE event SET (parallel_workers = 2);
	INSERT INTO event SELECT NULL, NULL, NULL FROM generate_series(1, 1000);
	ALTER TABLE event ALTER t SET STATISTICS 1000, ALTER u SET STATISTICS 1000, ALTER b SET STATISTICS 1000;
	ANALYZE event;
	INSERT INTO optout.product_user (organization, user_id)
	SELECT DISTINCT 'default', x FROM event, unnest(ARRAY[t, u::text, b::text]) AS x WHERE b % 100 = 0;
	SELECT optout.opt_out(array_agg(user_id)) FROM optout.product_user});

my $total = $node->safe_psql('postgres', 'SELECT count(*) FROM event');

sub estimate
{
	my ($condition, $settings) = @_;
	my $plan = $node->safe_psql('postgres', ($settings // '') . "EXPLAIN SELECT FROM event WHERE $condition");

	$plan =~ /rows=(\d+)/ or die $plan;
	return $1;
}

for my $column ('t', 'u', 'b')
{
	for my $filter ('on', 'off')
	{
		for my $condition ("optout.accepts($column)", "NOT optout.is_opted_out($column)", "optout.accepts($column, 'default')")
		{
			my $settings = "SET optout.filter = $filter; SET max_parallel_workers_per_gather = 0; ";
			my $truth = $node->safe_psql('postgres', "$settings SELECT count(*) FROM event WHERE $condition");
			my $estimate = estimate($condition, $settings);

			is($truth, $total - 500 - 500, "$condition, filter $filter: kept");
			ok(abs($estimate - $truth) <= 0.05 * $truth, "$condition, filter $filter: estimate $estimate of $truth");
		}
	}
	my $estimate = estimate("optout.is_opted_out($column)", 'SET max_parallel_workers_per_gather = 0; ');
	ok($estimate >= 700 && $estimate <= 1400, "is_opted_out($column): estimate $estimate of 1000");
	is(estimate("optout.accepts($column, 'another')", 'SET max_parallel_workers_per_gather = 0; '), $total,
		"another organization, column $column: nobody discarded");
}

# without statistics, and where the user is no column: any number will do
for my $condition (q{optout.accepts(t || '')}, q{optout.accepts('user 100')}, q{optout.accepts(NULL::text)},
	q{optout.accepts(t, (SELECT 'default'))}, q{optout.accepts(t, occurred_at => now())}, q{optout.accepts(b::int)})
{
	like(estimate($condition, 'SET max_parallel_workers_per_gather = 0; '), qr/^\d+$/, "$condition is planned");
}

#
# Parallel workers
#
my $parallel = q{
	SET max_parallel_workers_per_gather = 2;
	SET parallel_setup_cost = 0;
	SET parallel_tuple_cost = 0;
	SET min_parallel_table_scan_size = 0};
my $query = 'SELECT count(*), count(DISTINCT b), sum(b) FROM event WHERE optout.is_opted_out(t) AND optout.is_opted_out(u) AND optout.is_opted_out(b)';
my $expected = $node->safe_psql('postgres', "SET optout.filter = off; SET max_parallel_workers_per_gather = 0; $query");

like($expected, qr/^1000\|500\|/, 'serial, by the table');
like($node->safe_psql('postgres', "$parallel; EXPLAIN (ANALYZE, TIMING OFF) $query"),
	qr/Workers Launched: [12].*Filter: \(optout\.is_opted_out/s, 'is_opted_out runs in workers');
for my $work_mem ('64kB', '64MB')
{
	for my $leader ('on', 'off')
	{
		for my $filter ('on', 'off')
		{
			my $session = OptoutTest::Session->new($node);

			$session->query("$parallel; SET parallel_leader_participation = $leader; SET work_mem = '$work_mem'; SET optout.filter = $filter");
			is($session->query("$query; $query"), "$expected\n$expected",
				"parallel, leader $leader, filter $filter, work_mem $work_mem");
			$session->query('SET max_parallel_workers_per_gather = 0');
			is($session->query("$query; $query"), "$expected\n$expected", "then serial, filter $filter, work_mem $work_mem");
			$session->query('SET max_parallel_workers_per_gather = 2; SET max_parallel_workers = 0');
			is($session->query("$query; $query"), "$expected\n$expected", "then no workers to be had, filter $filter, work_mem $work_mem");
			$session->quit;
		}
	}
}

# the first look-up after a start is a worker's
$node->restart;
is($node->safe_psql('postgres', "$parallel; SET parallel_leader_participation = off; $query"), $expected, 'first look-up is of workers');
is($node->safe_psql('postgres', 'SELECT optout.verify(), shared_filter FROM optout.status'), '0|ready', 'first look-up is of workers: status');

# one's own opt-outs, not committed, in workers
{
	my $session = OptoutTest::Session->new($node);
	my $count = 'SELECT count(*) FROM event WHERE optout.is_opted_out(t)';

	$session->query(q{SELECT optout.enroll('user 77')});
	$session->query("$parallel; SET parallel_leader_participation = off; BEGIN; SELECT optout.opt_out('user 77')");
	is($session->query($count), 1001, 'own opt-out, parallel');
	$session->query(q{SAVEPOINT s; SELECT optout.opt_in('user 77')});
	is($session->query($count), 1000, 'own opt-in, parallel');
	$session->query('ROLLBACK TO s');
	is($session->query($count), 1001, 'own opt-in undone, parallel');
	$session->query('ROLLBACK');
	is($session->query($count), 1000, 'own opt-out undone, parallel');
	$session->quit;
}

# In parallel mode the query's snapshot has to do.  What it shows must not be taken
# for what is committed.
for my $isolation ('READ COMMITTED', 'REPEATABLE READ')
{
	my $session = OptoutTest::Session->new($node);
	my $in_parallel_mode = "$parallel; SET max_parallel_workers = 0";

	$node->safe_psql('postgres', q{SELECT optout.enroll('{out,in}'::text[]); SELECT optout.opt_out('in')});
	$session->query("$in_parallel_mode; CREATE TEMP TABLE asked (u text); CREATE TABLE IF NOT EXISTS ask WITH (parallel_workers = 2) AS SELECT unnest('{out,in,nobody}'::text[]) AS u");
	$session->query("BEGIN ISOLATION LEVEL $isolation; SELECT count(*) FROM event WHERE b < 0");
	$node->safe_psql('postgres', q{SELECT optout.opt_out('out'), optout.opt_in('in')});
	my $ask = q{SELECT string_agg(u || ' ' || optout.is_opted_out(u), ', ' ORDER BY u) FROM ask};
	my $filter = q{SELECT string_agg(u || ' ' || NOT optout.accepts(u), ', ' ORDER BY u) FROM ask};
	like($session->query("EXPLAIN SELECT u FROM ask WHERE optout.is_opted_out(u)"), qr/Gather/, "$isolation: in parallel mode");
	my $seen = $session->query('SELECT string_agg(u, $$ $$) FROM ask WHERE optout.is_opted_out(u)');
	is($seen, $isolation eq 'READ COMMITTED' ? 'out' : 'in', "$isolation: by the query's snapshot");
	is($session->query($filter), 'in false, nobody false, out true', "$isolation: accepts() goes by what is committed");
	is($session->query($filter), 'in false, nobody false, out true', "$isolation: and again");
	$session->query('COMMIT');
	is($session->query($filter), 'in false, nobody false, out true', "$isolation: after the transaction");
	$session->quit;
	$node->safe_psql('postgres', q{SELECT optout.opt_in('out'); SELECT optout.forget('{in,out}'::text[])});
}

$node->stop;
done_testing();
