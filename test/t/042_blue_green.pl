# Blue/green: a new server takes the old one's place by logical replication of all
# tables, with what doc/fleet.md says.  Nothing is lost, no guard lets anything pass,
# and the two ledgers do not collide.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($copy, $switch) = slurp_file("$FindBin::RealBin/../../doc/fleet.md") =~ /^```sql green\n(.*?)^```$/msg;
my $settings = "shared_preload_libraries = 'optout'\nautovacuum = off\nwal_retrieve_retry_interval = '100ms'\nmax_logical_replication_workers = 20\nmax_worker_processes = 30\n";
my $blue = new_server('blue', { allows_streaming => 'logical' }, $settings);
my $green = new_server('green', { allows_streaming => 'logical' }, $settings);
my $port = $blue->port;
my $host = $blue->host;

# The schema without the rows, and roles before it
sub copy_schema
{
	my ($dbname) = @_;

	$green->safe_psql('postgres', "CREATE DATABASE $dbname");
	IPC::Run::run([ 'pg_dump', '--schema-only', '--no-publications', '-d', $blue->connstr('postgres') ], '|',
		[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $green->connstr($dbname) ], '>', \my $output)
	  or die 'no schema';
}

# All rows, but for how a ledger spreads its counts
my @tables = ('candidate', 'guarded', 'filtered', 'offered', 'optout.product_user', 'optout.opt_out_period', 'optout.authority', 'optout.discards');

sub rows
{
	my ($server, $dbname) = @_;

	return join "\n", map { $server->safe_psql($dbname, "SELECT '$_', t::text FROM $_ AS t ORDER BY 2") } @tables;
}

# Discard in many sessions at once, so that each server has many rows in its ledger
sub discard
{
	my ($server, $dbname, $what) = @_;
	my @sessions = map { OptoutTest::Session->new($server, dbname => $dbname) } 1 .. 8;

	$_->query('BEGIN') for @sessions;
	is($_->query(offer()), $what, 'discarded') for @sessions;
	$_->query('COMMIT') for @sessions;
	$_->quit for @sessions;
}

sub ledger
{
	my ($server, $dbname) = @_;

	return $server->safe_psql($dbname, 'SELECT count(DISTINCT slot >> 32), sum(discarded) FROM optout.discard_ledger');
}

$_->safe_psql('postgres', 'CREATE ROLE shop_admin') for $blue, $green;
$blue->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 5) AS n;
	SELECT optout.grant_authority('shop_admin', 'shop', 'administer')});
ingest_tables($blue, 5);
is($blue->safe_psql('postgres', offer()), '- / -', 'stored before the opt-out');
$blue->safe_psql('postgres', q{SELECT optout.opt_out('{u1,u2}'::text[]); CREATE PUBLICATION everything FOR ALL TABLES});
discard($blue, 'postgres', 'u1 u2 / u1 u2');
is(ledger($blue, 'postgres'), '1|32', 'the old ledger');

# Everything is copied while events go on arriving at the old server
copy_schema('product');
$copy =~ s/host=blue dbname=product/host=$host port=$port dbname=postgres/ or die;
$green->safe_psql('product', $copy);
$blue->safe_psql('postgres', offer());
$green->wait_for_subscription_sync($blue, 'green', 'product');
$blue->safe_psql('postgres', q{SELECT optout.opt_out('u3'), optout.opt_in('u2'); } . offer());
discard($blue, 'postgres', 'u1 u3 / u1 u3');
$blue->wait_for_catchup('green');
is(rows($green, 'product'), rows($blue, 'postgres'), 'the new server has what the old one has');
is($green->safe_psql('product', 'SELECT fires FROM optout.guarded'), 'origin', 'the guard leaves alone what is replicated');

# A client that comes too early is guarded against, and counted beside the old
# server's discards of the same hour
discard($green, 'product', 'u1 u3 / u1 u3');
discard($blue, 'postgres', 'u1 u3 / u1 u3');
$blue->wait_for_catchup('green');
my ($old) = ledger($blue, 'postgres') =~ /^1\|(\d+)$/;
is(ledger($green, 'product'), '2|' . ($old + 32), 'both ledgers in one');

# The switch
is($blue->safe_psql('postgres', 'CALL optout.settle_replicas()'), '', 'settled');
$green->safe_psql('product', $switch);
is($green->safe_psql('product', 'SELECT fires FROM optout.guarded'), 'always', 'the guard is back');
check_exact($green, [ 'u1', 'u3' ], 'switched', dbname => 'product');
is($green->safe_psql('product', q{SET session_replication_role = replica; INSERT INTO guarded VALUES ('u1') RETURNING user_id}), '', 'the guard fires always');
is($green->safe_psql('product', q{SELECT count(*) FROM guarded WHERE user_id = 'u3'}), '10', 'what was stored before');
is($green->safe_psql('product', q{SELECT optout.opt_in('u3'), optout.opt_out('u2'), user_id FROM optout.opt_out_list}), "t|t|u1\nf|f|u3", 'it is an authority of its own');
$green->safe_psql('product', q{UPDATE optout.discard_ledger SET hour = hour - interval '2 hours'});
isnt($green->safe_psql('product', 'SELECT optout.compact_discards()'), '0', 'both ledgers can be compacted');
is( $green->safe_psql('product', 'SELECT count(*) - count(DISTINCT (hour, slot >> 32)), count(DISTINCT slot >> 32) FROM optout.discard_ledger'),
	'0|2', 'each for itself');

# Where guards are left on meanwhile, they drop what had been stored of those who
# are opted out; the ledgers do not collide, and replication goes on.
copy_schema('guarded');
$green->safe_psql('guarded', "CREATE SUBSCRIPTION guarded CONNECTION 'host=$host port=$port dbname=postgres' PUBLICATION everything");
$green->wait_for_subscription_sync($blue, 'guarded', 'guarded');
discard($blue, 'postgres', 'u1 u3 / u1 u3');
discard($green, 'guarded', 'u1 u3 / u1 u3');
discard($blue, 'postgres', 'u1 u3 / u1 u3');
$blue->wait_for_catchup('guarded');
is($green->safe_psql('guarded', q{SELECT count(*) FROM guarded WHERE user_id IN ('u1', 'u3')}), '0', 'a guard that is on drops what was stored');
is($green->safe_psql('guarded', 'SELECT count(DISTINCT slot >> 32) FROM optout.discard_ledger'), '2', 'and counts for itself');
is($green->safe_psql('guarded', q{
	SELECT sum(discarded) FROM optout.discard_ledger
	 WHERE slot >> 32 = (SELECT slot >> 32 FROM optout.discard_ledger ORDER BY slot >> 32 = } .
			$blue->safe_psql('postgres', 'SELECT max(slot >> 32) FROM optout.discard_ledger') . q{ DESC LIMIT 1)}),
	$blue->safe_psql('postgres', 'SELECT sum(discarded) FROM optout.discard_ledger'), 'beside the old server\'s');
$green->safe_psql('guarded', 'DROP SUBSCRIPTION guarded');

$_->stop for $green, $blue;
done_testing();
