# Filters and memos that are too small, too full or grow while they are used are
# slower, never wrong; answers with event times and in the middle of one's own
# transactions equal those of the table.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\noptout.filter_memory = 16kB\nautovacuum = off\n");
my $lookups = 'SELECT lookups_filter, lookups_memo, lookups_table FROM optout.status';

# What accepts() says differs from what the table holds for how many users?
sub wrong_of
{
	my ($users, $times) = @_;

	$times //= 'CAST(NULL AS timestamptz) AS t';
	return qq{
		SELECT count(*) || ' asked, ' || count(*) FILTER (WHERE accepted = EXISTS (
			SELECT FROM optout.opt_out_period p WHERE p.organization = 'default' AND p.user_id = u
			   AND (p.opted_in_at IS NULL OR t >= p.opted_out_at AND t < p.opted_in_at))) || ' wrong'
		  FROM (SELECT 'user ' || n AS u, t, optout.accepts('user ' || n, NULL, t) AS accepted
		          FROM generate_series(1, $users) n, LATERAL (SELECT $times) AS times) AS answer};
}

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(array_agg('user ' || n)) FROM generate_series(1, 40000) n});

#
# Growth through all seven sizes, while another session looks up
#
my $session = OptoutTest::Session->new($node);
my $count = 'SELECT count(*) FILTER (WHERE NOT optout.accepts(\'user \' || n)) FROM generate_series(1, 40000) n';
my $opted_out = 0;
my @rates;
for my $upto (10, 100, 250, 500, 1000, 2000, 4000, 10000, 30000)
{
	$node->safe_psql('postgres', "SELECT optout.opt_out(array_agg('user ' || n)) FROM generate_series($opted_out + 1, $upto) n");
	$opted_out = $upto;
	is($session->query($count), $upto, "$upto opted out: a session that watched the filter grow");
	is($node->safe_psql('postgres', $count), $upto, "$upto opted out: a new session");
	is($node->safe_psql('postgres', 'SELECT optout.verify()'), '0', "$upto opted out: verify");
	push @rates, $node->safe_psql('postgres', 'SELECT false_positive_rate FROM optout.status');
}
ok($rates[0] < 0.001 && !(grep { $_ > 0.01 } @rates[1 .. 6]), "few false positives while there is room (@rates)");
ok($rates[8] > 0.1, 'the filter is overfull in the end');
like("@rates", qr/^(0(\.\d{1,4})? ?){9}$/, 'rates have four digits');
is($node->safe_psql('postgres', wrong_of(40000)), '40000 asked, 0 wrong', 'overfull filter');

#
# Memo: without room, with room for all of the table
#
is( $node->safe_psql('postgres', "SET work_mem = '64kB'; SET hash_mem_multiplier = 1; " . wrong_of(40000) . ';' . wrong_of(40000)
		. "; SELECT sum(total_bytes) BETWEEN 1 AND 131072 FROM pg_backend_memory_contexts WHERE name = 'optout memo'"),
	"40000 asked, 0 wrong\n40000 asked, 0 wrong\nt", 'memo is full again and again, and does not grow');

$session->quit;
$session = OptoutTest::Session->new($node);
$session->query("SET work_mem = '64MB'");
$session->query($count);
my @before = split /\|/, $session->query($lookups);
is($session->query($count), 30000, 'memo of the whole table');
my @after = split /\|/, $session->query($lookups);
is($after[2] - $before[2], 0, 'the table is not asked any more');
ok($after[1] - $before[1] > 30000, 'but the memo');

for my $change ([ "SELECT optout.opt_in('user 5')", 29999 ], [ "SELECT optout.opt_out(ARRAY['user 5', 'user 39999'])", 30001 ],
	[ "SELECT optout.forget('user 6', force => true)", 30000 ])
{
	$node->safe_psql('postgres', $change->[0]);
	is($session->query($count), $change->[1], "memo of the whole table, then $change->[0]");
}

# the table is written to while a session reads all of it, and after that
my $writer = OptoutTest::Session->new($node);
$writer->query("BEGIN; SELECT optout.opt_in('user 7')");
is($session->query($count), 30000, 'not committed yet');
$writer->query('COMMIT');
is($session->query($count), 29999, 'committed');
$writer->quit;

#
# Event times: users with none to five periods
#
$node->safe_psql('postgres', q{
	TRUNCATE optout.opt_out_period;
	INSERT INTO optout.opt_out_period
	SELECT 'default', 'user ' || n, t, CASE WHEN p < n % 6 OR n % 4 <> 0 THEN t + interval '12 hours' END, 'x',
	       CASE WHEN p < n % 6 OR n % 4 <> 0 THEN 'x' END
	  FROM generate_series(1, 600) n, generate_series(1, 5) p,
	       LATERAL (SELECT timestamptz '2026-01-01' + p * interval '1 day' AS t) AS period
	 WHERE p <= n % 6});
my $times = q{unnest(ARRAY['2025-12-31', '2026-01-02', '2026-01-02 11:59:59.999999', '2026-01-02 12:00', '2026-01-03 06:00',
	'2026-01-04 18:00', '2026-01-06 01:00', '2026-01-06 12:00', 'infinity', '-infinity', NULL]::timestamptz[]) AS t};
is($session->query("SET optout.filter = off; " . wrong_of(700, $times) . '; SET optout.filter = on'),
	'7700 asked, 0 wrong', 'event times, by the table');
$session->query('SET work_mem = \'4MB\'');
is($session->query(wrong_of(700, $times) . ';' . wrong_of(700, $times)),
	"7700 asked, 0 wrong\n7700 asked, 0 wrong", 'event times');

# the look-up that makes the session read the whole table is right, too
$node->safe_psql('postgres', q{
	TRUNCATE optout.opt_out_period;
	INSERT INTO optout.opt_out_period
	SELECT 'default', 'user ' || n, t, t + interval '12 hours', 'x', 'x'
	  FROM generate_series(1, 300) n, unnest('{2026-01-01,2026-01-02,2026-01-03}'::timestamptz[]) AS t});
for my $day (1 .. 3)
{
	is($node->safe_psql('postgres', wrong_of(300, "timestamptz '2026-01-0$day 06:00' AS t")),
		'300 asked, 0 wrong', "whole table read on the way, period $day");
}

#
# Own changes: at each step the same as the table
#
my $answers = q{SELECT string_agg(optout.accepts(u)::text, ' ' ORDER BY u) FROM unnest('{user 1,user 2,user 3}'::text[]) AS u};
$node->safe_psql('postgres', 'DELETE FROM optout.opt_out_period');
$session->query($answers);
for my $step ('BEGIN', "SELECT optout.opt_out('user 1')", 'SAVEPOINT s', "SELECT optout.opt_in('user 1'), optout.opt_out('user 2')",
	'ROLLBACK TO s', "SELECT optout.opt_out('user 3')", 'SAVEPOINT t', "SELECT optout.opt_in('user 3')", 'RELEASE t',
	"SELECT optout.forget('user 1', force => true)",
	"DO 'BEGIN PERFORM optout.opt_out(''user 2''); BEGIN PERFORM optout.opt_in(''user 2''); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END; END'",
	'ROLLBACK', "BEGIN; SELECT optout.opt_out(ARRAY['user 1', 'user 3'])", 'COMMIT', "BEGIN; SELECT optout.opt_in('user 1')", 'ROLLBACK',
	"BEGIN; SELECT optout.opt_in('user 1')", 'COMMIT')
{
	$session->query($step);
	my $once = $session->query($answers);
	my $twice = $session->query($answers);
	my $table = $session->query("SET optout.filter = off; $answers; SET optout.filter = on");
	is("$once, $twice", "$table, $table", "own changes: after $step: $table");
}

#
# The planner knows how many rows will be kept
#
$node->safe_psql('postgres', q{
	CREATE TABLE event AS
	SELECT CASE WHEN n % 100 = 0 THEN 'user ' ELSE 'kept ' END || (n * 7919) % 100003 AS t, md5(n::text)::uuid AS u, n AS i
	  FROM generate_series(1, 100000) n;
	ANALYZE event;
	SELECT optout.enroll(array_agg(t)) FROM event WHERE t LIKE 'user%';
	SELECT optout.opt_out(array_agg(t)) FROM event WHERE t LIKE 'user%';
	SELECT optout.enroll(array_agg(u::text)) FROM event WHERE i % 100 = 1;
	SELECT optout.opt_out(array_agg(u::text)) FROM event WHERE i % 100 = 1;
	SELECT optout.enroll(array_agg(i::text)) FROM event WHERE i % 100 = 2;
	SELECT optout.opt_out(array_agg(i::text)) FROM event WHERE i % 100 = 2});
for my $column ('t', 'u', 'i')
{
	my $plan = $node->safe_psql('postgres', "EXPLAIN SELECT FROM event WHERE optout.accepts($column)");
	my $kept = $node->safe_psql('postgres', "SELECT count(*) FROM event WHERE optout.accepts($column)");

	is($kept, 99000, "column $column: kept");
	$plan =~ /rows=(\d+)/;
	ok(abs($1 - $kept) < 0.05 * $kept, "column $column: estimated $1");
}

$session->quit;
$node->stop;
done_testing();
