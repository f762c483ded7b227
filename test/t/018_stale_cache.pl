# The shared cache gives no stale answer.  Each question is asked in a session of
# its own, whose memo is empty, so that it is the cache or the table that answers;
# the counters tell which.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nmax_prepared_transactions = 10\nautovacuum = off\n");
my $session;

# Who is opted out, and how many of the answers came from where:
# "u1 u2: 2 cache, 0 table".
sub ask
{
	my ($list, %params) = @_;
	my $lookups = 'SELECT lookups_cache, lookups_table FROM optout.status';
	my $occurred_at = defined $params{at} ? "'$params{at}'" : 'NULL';
	my @before = split /\|/, $node->safe_psql('postgres', $lookups);
	my $answer = $node->safe_psql('postgres', qq{
		SELECT COALESCE(string_agg(u, ' ' ORDER BY u), 'nobody') FROM unnest('{$list}'::text[]) u
		 WHERE NOT optout.accepts(u, occurred_at => $occurred_at)});
	my @after = split /\|/, $node->safe_psql('postgres', $lookups);

	return sprintf '%s: %d cache, %d table', $answer, $after[0] - $before[0], $after[1] - $before[1];
}

$node->safe_psql('postgres', q{CREATE EXTENSION optout;
	SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 40) n;
	SELECT optout.opt_out('{u1,u2,u3}'::text[])});

# whoever asks first adds the keys, and fills the cache with those who are out
is(ask('u1,u2,u3,kept'), 'u1 u2 u3: 3 cache, 0 table', 'first asked');
is(ask('u1,u2,u3,kept'), 'u1 u2 u3: 3 cache, 0 table', 'asked again, by somebody else');

# opted in and out by others
$node->safe_psql('postgres', "SELECT optout.opt_in('u1')");
is(ask('u1,u2,u3'), 'u2 u3: 2 cache, 1 table', 'opted in');
is(ask('u1,u2,u3'), 'u2 u3: 3 cache, 0 table', 'opted in, again');
$node->safe_psql('postgres', "SELECT optout.opt_out('u1')");
is(ask('u1,u2,u3'), 'u1 u2 u3: 2 cache, 1 table', 'opted out again');
is(ask('u1,u2,u3'), 'u1 u2 u3: 3 cache, 0 table', 'opted out again, again');

# the past of who is not opted out is the table's to tell
$node->safe_psql('postgres', "SELECT optout.opt_in('u1')");
my $then = $node->safe_psql('postgres', "SELECT max(opted_out_at) FROM optout.opt_out_history WHERE user_id = 'u1'");
ask('u1');
is(ask('u1'), 'nobody: 1 cache, 0 table', 'not opted out now');
is(ask('u1', at => $then), 'u1: 0 cache, 1 table', 'opted out then');
is(ask('u2', at => 'infinity'), 'u2: 1 cache, 0 table', 'opted out at any time while opted out now');

# A change that is under way: nobody's answer is kept until it has ended, and it
# is the old one until then.
foreach my $end ('COMMIT', 'ROLLBACK')
{
	foreach my $change ("optout.opt_in('u2')", "optout.opt_out('u4')", "optout.forget('u3', force => true)")
	{
		my ($user) = $change =~ /'(\w+)'/;
		my $old = ask($user) =~ /^(\w+)/ ? $1 : die;
		$session = OptoutTest::Session->new($node);
		$session->query("BEGIN; SELECT $change");
		like(ask($user), qr/^$old: 0 cache, 1 table/, "$change under way");
		like(ask($user), qr/^$old: 0 cache, 1 table/, "$change under way, again");
		my $own = $old eq 'nobody' ? $user : 'nobody';
		is($session->query("SELECT CASE WHEN optout.accepts('$user') THEN 'nobody' ELSE '$user' END"),
			$own, "$change: own change is seen");
		$session->query($end);
		my $new = $end eq 'COMMIT' ? $own : $old;
		like(ask($user), qr/^$new: 0 cache, 1 table/, "$change: $end");
		like(ask($user), qr/^$new: 1 cache, 0 table/, "$change: $end, again");
		$session->quit;
	}
	$node->safe_psql('postgres', q{SELECT optout.enroll('u3');
		SELECT optout.opt_out('{u2,u3}'::text[]); SELECT optout.opt_in('u4')});
}

# A snapshot that is older than the change, taken by whoever began before it.
$session = OptoutTest::Session->new($node);
$session->query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class; CREATE TEMPORARY TABLE t ()");
$node->safe_psql('postgres', "SELECT optout.opt_in('u2')");
is($session->query("SELECT optout.accepts('u2')"), 't', 'asked in an older transaction');
is(ask('u2'), 'nobody: 0 cache, 1 table', 'no answer is kept while an older transaction runs');
$session->query('COMMIT');
$session->quit;
is(ask('u2'), 'nobody: 0 cache, 1 table', 'once it has ended');
is(ask('u2'), 'nobody: 1 cache, 0 table', 'is it kept');
$node->safe_psql('postgres', "SELECT optout.opt_out('u2')");

# rolled back to a savepoint, and changed again by the same transaction
$session = OptoutTest::Session->new($node);
$session->query("BEGIN; SELECT optout.opt_in('u2'); SAVEPOINT s; SELECT optout.opt_out('u2'); ROLLBACK TO s");
is($session->query("SELECT optout.accepts('u2')"), 't', 'rolled back to a savepoint');
$session->query("SELECT optout.opt_out('u2'), optout.opt_in('u2'); COMMIT");
$session->quit;
is(ask('u2'), 'nobody: 0 cache, 1 table', 'after the commit');
$node->safe_psql('postgres', "SELECT optout.opt_out('u2')");

# rows written by whoever may: other ids, deletions, whole tables
ask('u1,u2,u3');
$node->safe_psql('postgres', q{UPDATE optout.opt_out_period SET user_id = 'u5' WHERE user_id = 'u3' AND opted_in_at IS NULL});
like(ask('u3,u5'), qr/^u5: /, 'another user in the row');
$node->safe_psql('postgres', q{DELETE FROM optout.opt_out_period WHERE user_id = 'u5'});
like(ask('u5'), qr/^nobody: /, 'deleted');
is(ask('u2'), 'u2: 1 cache, 0 table', 'still in the cache');
$node->safe_psql('postgres', 'CREATE TABLE copied AS TABLE optout.opt_out_period; TRUNCATE optout.opt_out_period');
like(ask('u2'), qr/^nobody: /, 'truncated');
$node->safe_psql('postgres', 'INSERT INTO optout.opt_out_period TABLE copied');
like(ask('u2'), qr/^u2: /, 'written again');
ask('u2');
$node->psql('postgres', 'BEGIN; TRUNCATE optout.opt_out_period; SELECT optout.accepts($$u2$$); ROLLBACK');
like(ask('u2'), qr/^u2: /, 'truncation rolled back');
ask('u2');
$node->safe_psql('postgres', q{BEGIN; ALTER TABLE optout.opt_out_period DISABLE TRIGGER optout_filter;
	UPDATE optout.opt_out_period SET opted_in_at = now() + interval '1 day', opted_in_by = 'x' WHERE user_id = 'u2' AND opted_in_at IS NULL;
	ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter; COMMIT});
like(ask('u2'), qr/^nobody: /, 'written while the trigger was disabled');
$node->safe_psql('postgres', "SELECT optout.opt_out('u2')");
ask('u2');
$node->safe_psql('postgres', q{SET session_replication_role = replica;
	UPDATE optout.opt_out_period SET opted_in_at = opted_out_at + interval '1 day', opted_in_by = 'x' WHERE user_id = 'u2' AND opted_in_at IS NULL});
like(ask('u2'), qr/^nobody: /, 'written as a replica');

# A prepared change outlives the server's memory.
$node->safe_psql('postgres', "SELECT optout.opt_out('{u6,u7}'::text[])");
ask('u6,u7');
$node->safe_psql('postgres', "BEGIN; SELECT optout.opt_in('u6'); PREPARE TRANSACTION 'in'");
is(ask('u6'), 'u6: 0 cache, 1 table', 'prepared');
$node->stop('immediate');
$node->start;
is(ask('u6,u7'), 'u6 u7: 0 cache, 2 table', 'prepared, then a crash');
is(ask('u6,u7'), 'u6 u7: 0 cache, 2 table', 'no answer is kept before it is decided');
$node->safe_psql('postgres', "COMMIT PREPARED 'in'");
is(ask('u6,u7'), 'u7: 0 cache, 2 table', 'committed');
is(ask('u6,u7'), 'u7: 2 cache, 0 table', 'committed, again');

# A cache that has room for few of them forgets, and does not mix users up.
$node->append_conf('postgresql.conf', "optout.filter_memory = '1kB'\n");
$node->restart;
$node->safe_psql('postgres', q{
	INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_in_at, opted_out_by, opted_in_by)
		SELECT 'few', 'f' || n, now(), CASE WHEN n % 2 = 0 THEN 'infinity'::timestamptz END, 'x', CASE WHEN n % 2 = 0 THEN 'x' END
		  FROM generate_series(1, 3000) n});
is($node->safe_psql('postgres',
	q{SELECT count(*), count(*) FILTER (WHERE optout.accepts('f' || n, 'few') = (n % 2 = 0)) FROM generate_series(1, 3000) n}),
	'3000|3000', 'too small a cache') for 1 .. 3;

# Whoever is asked for takes the place of those whom nobody has asked for; so does a
# session that reads the whole of a large table.
$node->append_conf('postgresql.conf', "optout.filter_memory = '64kB'\n");
$node->restart;
$node->safe_psql('postgres', q{
	INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by)
		SELECT 'many', 'm' || n, now(), 'x' FROM generate_series(1, 20000) n;
	VACUUM ANALYZE optout.opt_out_period});
$node->restart;
$node->poll_query_until('postgres', "SELECT shared_filter = 'ready' FROM optout.status");
my $cached = sub {
	my ($first) = @_;
	my $before = $node->safe_psql('postgres', 'SELECT lookups_cache FROM optout.status');
	$node->safe_psql('postgres', qq{SELECT count(*) FROM generate_series($first, $first + 1999) n WHERE optout.accepts('m' || n, 'many')});
	return $node->safe_psql('postgres', 'SELECT lookups_cache FROM optout.status') - $before;
};
cmp_ok($cached->(1), '>', 1950, 'the cache is filled with those who come first');
cmp_ok($cached->(18001), '<', 100, 'there is no room for those who come last');
cmp_ok($cached->(18001), '>', 1900, 'unless they are asked for');
cmp_ok($cached->(1), '>', 1900, 'together with others who are');
$session = OptoutTest::Session->new($node);
my @lookups = map {
	$session->query("SET work_mem = '64MB'; SELECT count(*) FROM generate_series(10001, 11500) n WHERE optout.accepts('m' || n, 'many')");
	$session->query('SELECT lookups_memo FROM optout.status') } 1 .. 2;
cmp_ok($lookups[0], '>', 500, 'a session has read the whole table');
cmp_ok($cached->($_), '>', 1900, 'they are there still') for 1, 18001;
$session->quit;

# A parallel query that adds keys fills no cache, but leaves that to those who go on.
$node->append_conf('postgresql.conf', "optout.filter_memory = '16MB'\nmax_parallel_workers = 0\n");
$node->safe_psql('postgres', 'CREATE TABLE one AS SELECT 1 AS n; ALTER TABLE one SET (parallel_workers = 1)');
$node->restart;
$session = OptoutTest::Session->new($node);
$session->query('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0');
my $parallel = q{SELECT pg_cancel_backend(pg_backend_pid()), optout.is_opted_out('m1', 'many') FROM one};
like($session->query("EXPLAIN $parallel"), qr/Gather/, 'a parallel query');
my $added = q{SELECT done FROM optout.progress WHERE command = 'add keys'};
for (1 .. 100)
{
	# it may be cancelled before it comes to that
	$session->query_fails($parallel);
	last if $node->safe_psql('postgres', $added) ne '';
}
is($node->safe_psql('postgres', $added), '1', 'a parallel query: has added the keys of a page');
$session->quit;
wait_until_ready($node);
my ($before) = $node->safe_psql('postgres', 'SELECT lookups_cache FROM optout.status');
$node->safe_psql('postgres', q{SELECT count(*) FROM generate_series(19501, 20000) n WHERE optout.accepts('m' || n, 'many')});
is($node->safe_psql('postgres', 'SELECT lookups_cache FROM optout.status') - $before, 500, 'a parallel query: the others are in the cache');

is($node->safe_psql('postgres', 'SELECT optout.verify()'), '0', 'verify');
done_testing();
