# Citus, where it is installed beside the server: on a worker that does not follow
# the coordinator filter and guards are errors, on those that follow they are exact.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $probe = new_server('probe');
my $there = $probe->safe_psql('postgres', q{SELECT count(*) FROM pg_available_extensions WHERE name = 'citus'});
$probe->stop;
plan skip_all => 'not run: Citus is not installed' if !$there;

my ($follow) = slurp_file("$FindBin::RealBin/../../doc/fleet.md") =~ /^```sql coordinator\n(.*?)^```$/ms;
my $settings = "shared_preload_libraries = 'citus, optout'\nlisten_addresses = '127.0.0.1'\nmax_connections = 100\nautovacuum = off\n"
  . "wal_retrieve_retry_interval = '100ms'\n";
my ($coordinator, @workers) = map { new_server($_, { allows_streaming => 'logical' }, $settings) } 'coordinator', 'worker1', 'worker2', 'worker3';

sub on_coordinator
{
	return $coordinator->safe_psql('postgres', join '; ', @_);
}

sub add_worker
{
	my ($worker) = @_;

	on_coordinator("SELECT citus_add_node('127.0.0.1', " . $worker->port . ')');
}

$_->safe_psql('postgres', 'CREATE EXTENSION citus') for $coordinator, @workers;
on_coordinator(q{SELECT citus_set_coordinator_host('127.0.0.1', } . $coordinator->port . ')');
note on_coordinator('SELECT citus_version()');
add_worker($_) for @workers[ 0, 1 ];
on_coordinator('CREATE EXTENSION optout');
is($_->safe_psql('postgres', 'SELECT shared_filter FROM optout.status'), 'incomplete', 'a worker by itself') for @workers[ 0, 1 ];
isnt(on_coordinator('SELECT shared_filter FROM optout.status'), 'incomplete', 'the coordinator is the authority');

on_coordinator(q{CREATE TABLE dist (user_id text, what text)}, q{SELECT create_distributed_table('dist', 'user_id')},
	q{CREATE TABLE guarded (user_id text, what text)}, q{SELECT create_distributed_table('guarded', 'user_id')},
	q{CREATE TABLE dstaging (user_id text, what text)}, q{SELECT create_distributed_table('dstaging', 'user_id')},
	q{INSERT INTO dstaging SELECT 'u' || n, 'event' FROM generate_series(1, 1000) AS n},
	q{SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 1000) AS n},
	q{SELECT optout.opt_out(array_agg('u' || n)) FROM generate_series(1, 100) AS n});
is(on_coordinator(q{SET citus.enable_unsafe_triggers = on}, q{SELECT optout.guard('guarded')}, 'SELECT relation, fires FROM optout.guarded'),
	"\nguarded|always", 'guard of a distributed table');

my %statement = (
	'accepts, pushed down' => 'INSERT INTO dist SELECT * FROM dstaging WHERE optout.accepts(user_id)',
	'is_opted_out, pushed down' => 'SELECT count(*) FROM dstaging WHERE optout.is_opted_out(user_id)',
	guard => 'INSERT INTO guarded SELECT * FROM dstaging',
	'guard, row' => q{INSERT INTO guarded VALUES ('u1', 'row')},
	'guard, COPY' => qq{COPY guarded FROM STDIN;\nu1\tcopied\nu999\tcopied\n\\.\n});

sub refused
{
	my ($what, @names) = @_;

	# Citus reports an error in a COPY under a code of its own
	like(errors_of($coordinator, $statement{$_}), qr/ERROR:  (?:55000|XX000): this server does not know who is opted out\nDETAIL:  No subscription has copied table "optout\.opt_out_period" to this worker of Citus\./, "$what: $_")
	  for @names;
	is(on_coordinator('SELECT (SELECT count(*) FROM dist) + (SELECT count(*) FROM guarded)'), '0', "$what: nothing is stored");
}

refused('nobody follows', sort keys %statement);
like($coordinator->safe_psql('postgres', "EXPLAIN $statement{'is_opted_out, pushed down'}"), qr/Custom Scan/, 'EXPLAIN is no error');

# What doc/fleet.md says to do
$follow =~ s/host=coordinator dbname=product user=ingest_server/'host=127.0.0.1 port=' . $coordinator->port . ' dbname=postgres'/e or die;
sub follow
{
	my ($out, $err) = ('', '');

	$coordinator->psql('postgres', $follow, on_error_stop => 0, stdout => \$out, stderr => \$err);
	return $out;
}
my $complete = q{SELECT count(*) = 1 FROM pg_subscription_rel WHERE srsubstate = 'r' AND srrelid = 'optout.opt_out_period'::regclass};
is(() = follow() =~ /\|t\|CREATE SUBSCRIPTION$/mg, 2, 'each worker is made to follow');
$_->poll_query_until('postgres', $complete) or die 'does not follow' for @workers[ 0, 1 ];
is(on_coordinator(q{CALL optout.settle_replicas('1 min')}, 'SELECT name, kind FROM optout.replicas ORDER BY 1'), "worker_1|subscriber\nworker_2|subscriber", 'replicas');

# Exact: 1000 offered, 100 of them by users who are out
sub exact
{
	my ($what, $out) = @_;
	my $before = on_coordinator(q{SELECT sum(result::bigint) FROM run_command_on_all_nodes('SELECT COALESCE(sum(discarded), 0) FROM optout.discards')});

	on_coordinator('TRUNCATE dist, guarded');
	$coordinator->safe_psql('postgres', $statement{$_}) for 'accepts, pushed down', 'guard', 'guard, row', 'guard, COPY';
	is(on_coordinator('SELECT count(*) FROM dist'), 1000 - $out, "$what: stored through accepts");
	is(on_coordinator(q{SELECT what, count(*) FROM guarded GROUP BY 1 ORDER BY 1}), "copied|1\nevent|" . (1000 - $out), "$what: stored through the guard");
	is(on_coordinator($statement{'is_opted_out, pushed down'}), $out, "$what: is_opted_out");
	is(on_coordinator(qq{SELECT (SELECT count(*) FROM dist WHERE substr(user_id, 2)::int <= $out) + (SELECT count(*) FROM guarded WHERE substr(user_id, 2)::int <= $out)}), '0',
		"$what: nobody's who is out");
	is(on_coordinator(q{SELECT sum(result::bigint) FROM run_command_on_all_nodes('SELECT COALESCE(sum(discarded), 0) FROM optout.discards')}) - $before, 2 * $out + 2,
		"$what: discards of all nodes");
}
exact('the first copy', 100);
on_coordinator(q{SELECT optout.opt_out(array_agg('u' || n)) FROM generate_series(101, 200) AS n}, q{CALL optout.settle_replicas('1 min')});
exact('opted out since', 200);

# A worker added later is an error until it follows
on_coordinator('TRUNCATE dist, guarded');
add_worker($workers[2]);
is($workers[2]->safe_psql('postgres', 'SELECT shared_filter FROM optout.status'), 'incomplete', 'a worker added later');
on_coordinator(q{SELECT rebalance_table_shards(shard_transfer_mode => 'block_writes')});
refused('a worker added later', 'accepts, pushed down', 'is_opted_out, pushed down', 'guard');
is(() = follow() =~ /\|t\|CREATE SUBSCRIPTION$/mg, 1, 'it is made to follow, those that do stay as they are');
$workers[2]->poll_query_until('postgres', $complete) or die 'does not follow';
on_coordinator(q{CALL optout.settle_replicas('1 min')});
exact('three workers', 200);

# The coordinator's own tables go on as anywhere, and the list stays one of them
like(errors_of($coordinator, "SET citus.enable_unsafe_triggers = $_; SELECT create_reference_table('optout.opt_out_period')"), qr/has triggers|cannot be a trigger/,
	"the list is not distributed, unsafe triggers $_")
  for 'off', 'on';
like(errors_of($coordinator, "SELECT create_reference_table('optout.product_user')"), qr/has triggers/, 'nor is the directory');
is(on_coordinator(q{SELECT optout.accepts('u1')}), 'f', 'the list is as before');
is(on_coordinator(q{SELECT optout.enroll('new'), optout.sign_in('new')}), '|t', 'enroll and sign in');

$_->stop for @workers, $coordinator;
done_testing();
