# One authority and three ingest servers, set up with what doc/fleet.md says and no
# more: an opt-out is in force everywhere when settle_replicas() returns; a server
# that is cut off is named and falls behind, as optout.replicas and optout.status
# show, and catches up.  A standby is shown as well.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

# The page's blocks for the authority, or for an ingest server.
sub page
{
	my ($where) = @_;

	return slurp_file("$FindBin::RealBin/../../doc/fleet.md") =~ /^```sql \Q$where\E\n(.*?)^```$/msg;
}

my ($publish, $opt_out, $synchronous, $all_discards) = page('authority');
my ($subscribe, $again, $publish_discards) = page('ingest server');
my $settings = "shared_preload_libraries = 'optout'\nautovacuum = off\nwal_retrieve_retry_interval = '100ms'\n";
my $authority = new_server('authority', { allows_streaming => 'logical' }, $settings);
my @ingest = map { new_server("ingest$_", { allows_streaming => 'logical' }, $settings) } 1 .. 3;

$authority->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(ARRAY['alice', 'bob', 'carol', 'dave', 'erin']);
	SELECT optout.opt_out('bob');
	CREATE ROLE acme_admin LOGIN;
	CREATE ROLE nobody;
	SELECT optout.grant_authority('acme_admin', 'default', 'administer')});
is($authority->safe_psql('postgres', 'SELECT count(*), bool_and(replica_lag IS NULL) FROM optout.replicas RIGHT JOIN optout.status ON true'),
	'1|t', 'no replicas yet');
is($authority->safe_psql('postgres', "CALL optout.settle_replicas('0')"), '', 'nobody to wait for');

$authority->safe_psql('postgres', $publish);

# trust whoever may replicate, as these servers' other connections
my $port = $authority->port;
my $host = $authority->host;

sub subscribe
{
	my ($n) = @_;
	my $sql = $subscribe;

	$sql =~ s/host=authority dbname=product/host=$host port=$port dbname=postgres/ or die;
	$sql =~ s/\bingest1\b/ingest$n/ or die;
	$sql =~ s/(SELECT srsubstate = 'r' .*;)// or die;
	my $copied = $1;

	$ingest[ $n - 1 ]->safe_psql('postgres', $sql);
	return $copied;
}

# What the ingest servers discard of the candidates; each has an old session, too.
my (@guarded, @sessions);

sub discarded
{
	my ($n) = @_;

	return $sessions[ $n - 1 ]->query(offer());
}

sub replicas
{
	my ($columns, %params) = @_;

	return $authority->safe_psql('postgres', ($params{role} ? "SET ROLE $params{role};" : '') . qq{
		SELECT $columns FROM optout.replicas ORDER BY name});
}

# The same, once those that are connected have caught up: the server writes
# write-ahead log of its own at any moment.
sub replicas_become
{
	my ($columns, $expected, $what, %params) = @_;
	my $found;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$found = replicas($columns, %params);
		last if $found eq $expected;
		usleep(100_000);
	}
	is($found, $expected, $what);
}

# The first copy is made.  While it is being made, nobody takes it for made.
my $lock = OptoutTest::Session->new($authority);

$lock->query('SELECT pg_advisory_lock(1)');
$authority->safe_psql('postgres', q{
	ALTER TABLE optout.opt_out_period ENABLE ROW LEVEL SECURITY;
	CREATE POLICY wait ON optout.opt_out_period TO ingest_server USING (pg_advisory_lock_shared(1) IS NOT NULL)});
my $copied = subscribe(1);
$authority->poll_query_until('postgres', q{SELECT count(*) = 1 FROM optout.replicas WHERE kind = 'initial copy'})
  or die 'no initial copy';
is(replicas('kind, connected, applied IS NULL, lag IS NULL'), "subscriber|t|f|f\ninitial copy|f|t|t", 'while the first copy is made');
my $checked = q{SELECT ok, detail FROM optout.checks WHERE name = 'replicas'};
like($authority->safe_psql('postgres', $checked), qr/^f\|behind, incomplete or unknown: .*pg_\d+_sync_/, 'the check fails');
like(errors_of($authority, "CALL optout.settle_replicas('0')"), qr/55000: replicas have not applied all changes within 00:00:00\nDETAIL:  Behind: (ingest1, )?pg_\d+_sync_/,
	'it is waited for');
is($ingest[0]->safe_psql('postgres', $copied), 'f', 'the ingest server knows');
$lock->query('SELECT pg_advisory_unlock(1)');
$lock->quit;
$ingest[0]->poll_query_until('postgres', $copied) or die 'no first copy';
$authority->safe_psql('postgres', q{
	DROP POLICY wait ON optout.opt_out_period;
	ALTER TABLE optout.opt_out_period DISABLE ROW LEVEL SECURITY});
subscribe($_) for 2, 3;
$_->poll_query_until('postgres', $copied) or die 'no first copy' for @ingest;
$authority->safe_psql('postgres', 'CREATE DATABASE other');
$authority->safe_psql('other', q{SELECT pg_create_logical_replication_slot('elsewhere', 'pgoutput')});
$authority->safe_psql('postgres', 'CALL optout.settle_replicas()');
is(replicas('name, kind, connected, applied IS NOT NULL'), join("\n", map { "ingest$_|subscriber|t|t" } 1 .. 3),
	'three subscribers of this database');

for my $server (@ingest)
{
	ingest_tables($server, 0);
	$server->safe_psql('postgres', q{INSERT INTO candidate VALUES ('alice'), ('bob'), ('carol'), ('dave'), ('erin')});
	push @sessions, OptoutTest::Session->new($server);
}
is(discarded($_), 'bob / bob', "server $_: the first copy is in force") for 1 .. 3;
is($_->safe_psql('postgres', 'SELECT count(*) FROM optout.product_user'), '0', 'no names and addresses there') for @ingest;
is($_->safe_psql('postgres', q{SELECT ok, detail FROM optout.checks WHERE name = 'organizations'}),
	't|1 with discards in the last 24 hours', 'and no check misses them') for @ingest;

# What doc/fleet.md says to do for an opt-out
my ($said) = $authority->safe_psql('postgres', $opt_out);
like($said, qr/^t\n(?:ingest1\|t\|\d+)\n(?:ingest2\|t\|\d+)\n(?:ingest3\|t\|\d+)$/, 'opted out and settled');
is(discarded($_), 'alice bob / alice bob', "server $_: in force when settle_replicas() has returned") for 1 .. 3;
$authority->poll_query_until('postgres', q{SELECT replica_lag = '{"ingest1": 0, "ingest2": 0, "ingest3": 0}' FROM optout.status})
  or die 'lag does not end: ' . $authority->safe_psql('postgres', 'SELECT replica_lag FROM optout.status');
pass('no lag where nothing happens');
is($authority->safe_psql('postgres', $checked), 't|3 in force', 'the check holds');

# Cut off, and the others are not
$ingest[1]->safe_psql('postgres', 'ALTER SUBSCRIPTION ingest2 DISABLE');
$authority->poll_query_until('postgres', q{SELECT NOT connected FROM optout.replicas WHERE name = 'ingest2'})
  or die 'still connected';
$authority->safe_psql('postgres', q{SELECT optout.opt_out('carol')});
$authority->safe_psql('postgres', q{CALL optout.settle_replicas(names => '{ingest3,ingest1}')});
is(discarded(1), 'alice bob carol / alice bob carol', 'in force where they are connected');
is(discarded(3), 'alice bob carol / alice bob carol', 'in force where they are connected');
is(discarded(2), 'alice bob / alice bob', 'not where it is cut off');
is($authority->safe_psql('postgres', $checked), 'f|behind, incomplete or unknown: ingest2', 'the check fails');
my $error;
do { $error = errors_of($authority, q{CALL optout.settle_replicas('1 s')}) } while $error =~ /Behind: .*ingest[13]/;
$error =~ s/55000: |psql:<stdin>:\d+: |CONTEXT:.*//sg;
ok(index(slurp_file("$FindBin::RealBin/../../doc/fleet.md"), $error) >= 0, 'it is named, as doc/fleet.md shows') or diag $error;
replicas_become('name, connected, lag > 0', "ingest1|t|f\ningest2|f|t\ningest3|t|f", 'it is behind');
ok($authority->poll_query_until('postgres', q{
	SELECT r.name FROM optout.status, jsonb_each_text(replica_lag) AS r (name, lag) WHERE lag::bigint > 0}, 'ingest2'), 'as status shows');
replicas_become('name, lag > 0', "ingest1|f\ningest2|t\ningest3|f", 'to anybody', role => 'nobody');
is($authority->safe_psql('postgres', q{SET ROLE nobody; SELECT replica_lag ? 'ingest2' FROM optout.status}), 't', 'to anybody');

# It falls behind, also across restarts of both
$authority->safe_psql('postgres', q{SELECT optout.opt_in('alice'); SELECT optout.opt_out(ARRAY['dave', 'erin']); SELECT optout.opt_in('erin')});
$authority->restart;
$_->quit for @sessions;
$ingest[1]->stop('immediate');
$ingest[1]->start;
@sessions = map { OptoutTest::Session->new($_) } @ingest;
is(discarded(2), 'alice bob / alice bob', 'goes on with what it knows');
is(replicas(q{lag > 0}) =~ /t/ ? 'behind' : '', 'behind', 'its lag outlives the restart');
my $waiting = OptoutTest::Session->new($authority);
$waiting->begin(q{CALL optout.settle_replicas()});
$ingest[1]->safe_psql('postgres', 'ALTER SUBSCRIPTION ingest2 ENABLE');
my ($out, $err) = $waiting->finish;
is($err, '', 'who waits is told when it has caught up');
is(discarded($_), 'bob carol dave / bob carol dave', "server $_: in force") for 1 .. 3;
is($_->safe_psql('postgres', q{
	SELECT optout.verify(),
		   (SELECT sum(events) FROM offered) - (SELECT count(*) FROM guarded) - (SELECT count(*) FROM filtered)
		   - (SELECT sum(discarded) FROM optout.discards)}), '0|0', 'filter and ledger are exact') for @ingest;

# What it cannot promise, it does not
like(errors_of($authority, q{BEGIN; SELECT optout.opt_out('erin'); CALL optout.settle_replicas(); ROLLBACK}),
	qr/25001: .*cannot run in a transaction that has written/, 'not in the transaction of the opt-out');
like(errors_of($authority, q{CALL optout.settle_replicas(names => '{ingest1,ingest9}')}), qr/42704: replica ingest9 does not exist/, 'unknown name');
like(errors_of($authority, q{CALL optout.settle_replicas(names => '{NULL}')}), qr/42704: replica NULL does not exist/, 'no name');
$ingest[1]->safe_psql('postgres', 'ALTER SUBSCRIPTION ingest2 DISABLE');
$authority->poll_query_until('postgres', q{SELECT NOT connected FROM optout.replicas WHERE name = 'ingest2'})
  or die 'still connected';
$authority->safe_psql('postgres', q{SELECT optout.opt_out('erin')});
$waiting->begin(q{CALL optout.settle_replicas()});
$authority->poll_query_until('postgres', 'SELECT wait_event = \'PgSleep\' FROM pg_stat_activity WHERE pid = ' . $waiting->pid)
  or die 'does not wait';
$authority->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $waiting->pid . ')');
($out, $err) = $waiting->finish;
like($err, qr/57014: canceling statement due to user request/, 'can be cancelled');
$ingest[1]->safe_psql('postgres', 'ALTER SUBSCRIPTION ingest2 ENABLE');

# An administrator whose COMMIT waits
$authority->append_conf('postgresql.conf', "synchronous_standby_names = 'FIRST 3 (ingest1, ingest2, ingest3)'\nsynchronous_commit = local\n");
$authority->reload;
$authority->poll_query_until('postgres', q{SELECT count(*) = 3 FROM pg_stat_replication WHERE sync_state = 'sync'})
  or die 'not synchronous';
# commits wait for them from when the checkpointer has read the settings
$authority->safe_psql('postgres', 'CHECKPOINT');
$authority->safe_psql('postgres', $synchronous);
for my $user ('alice', 'alice', 'alice')
{
	my $as = [ '-U', 'acme_admin' ];

	$authority->safe_psql('postgres', qq{SELECT optout.opt_out('$user')}, extra_params => $as);
	is(discarded($_), 'alice bob carol dave erin / alice bob carol dave erin', "server $_: in force after COMMIT") for 1 .. 3;
	$authority->safe_psql('postgres', qq{SELECT optout.opt_in('$user')}, extra_params => $as);
	is(discarded($_), 'bob carol dave erin / bob carol dave erin', "server $_: ended after COMMIT") for 1 .. 3;
}
$authority->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
$authority->reload;

# Discards of all servers in one place
my %discarded = map { $_ => $ingest[ $_ - 1 ]->safe_psql('postgres', 'SELECT sum(discarded) FROM optout.discards') } 1 .. 3;
my ($subscribe_discards, $query) = $all_discards =~ /^(CREATE SUBSCRIPTION .*?;\n)(.*)$/s or die;
for my $n (1 .. 3)
{
	my $sql = $subscribe_discards;

	$ingest[ $n - 1 ]->safe_psql('postgres', $publish_discards);
	$sql =~ s/host=ingest1 dbname=product/"host=" . $ingest[ $n - 1 ]->host . " port=" . $ingest[ $n - 1 ]->port . " dbname=postgres"/e or die;
	$sql =~ s/discards1/discards$n/ or die;
	$authority->safe_psql('postgres', $sql);
	$authority->wait_for_subscription_sync($ingest[ $n - 1 ], "discards$n");
	discarded($n);
	$discarded{$n} = $ingest[ $n - 1 ]->safe_psql('postgres', 'SELECT sum(discarded) FROM optout.discards');
	$ingest[ $n - 1 ]->wait_for_catchup("discards$n");
}
is($authority->safe_psql('postgres', $query), 'default|' . ($discarded{1} + $discarded{2} + $discarded{3}), 'discards of all servers by one query');
is($authority->safe_psql('postgres', 'SELECT sum(discarded) FROM optout.discard_ledger GROUP BY slot >> 32 ORDER BY 1'),
	join("\n", sort { $a <=> $b } values %discarded), 'and of each');
$authority->safe_psql('postgres', "DROP SUBSCRIPTION discards$_") for 1 .. 3;

# A server that has lost its list gets it anew
$again =~ s/host=authority dbname=product/host=$host port=$port dbname=postgres/ or die;
$ingest[0]->safe_psql('postgres', $again);
$ingest[0]->poll_query_until('postgres', $copied) or die 'no copy';
is(discarded(1), discarded(2), 'a list copied anew');

# Standbys for reports: with a slot, without, and one behind the first
$authority->backup('base');
my @standbys = map { OptoutTest::Server->new("report$_") } 1 .. 3;
for my $standby (@standbys)
{
	$standby->init_from_backup($authority, 'base', has_streaming => 1);
	$standby->enable_streaming($standbys[0]) if $standby == $standbys[2];
	$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\n");
}
$authority->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('report_slot')});
is(replicas(q{name, kind, connected, lag IS NULL}) =~ /^report_slot\|standby\|f\|t$/m ? 'shown' : '', 'shown', 'a standby not connected yet');
$standbys[0]->append_conf('postgresql.conf', "primary_slot_name = 'report_slot'\n");
$_->start for @standbys;
$authority->poll_query_until('postgres', q{SELECT count(*) = 2 FROM optout.replicas WHERE kind = 'standby' AND connected AND applied IS NOT NULL})
  or die 'standbys not connected';
$authority->safe_psql('postgres', q{SELECT optout.opt_out('alice')});
$authority->safe_psql('postgres', q{CALL optout.settle_replicas(names => '{report_slot,report2}')});
$standbys[0]->safe_psql('postgres', q{CALL optout.settle_replicas(names => '{report3}')});
is($_->safe_psql('postgres', q{SELECT optout.is_opted_out('alice')}), 't', 'in force on a standby') for @standbys;
is($standbys[0]->safe_psql('postgres', q{SELECT name, kind, lag >= 0, replica_lag ? 'report3' FROM optout.replicas, optout.status}),
	'report3|standby|t|t', 'a standby behind a standby');
is($standbys[1]->safe_psql('postgres', q{SELECT count(*), bool_and(replica_lag IS NULL) FROM optout.replicas RIGHT JOIN optout.status ON true}), '1|t',
	'none behind the other');
is(replicas(q{name, lag IS NULL}, role => 'nobody') =~ /^report_slot\|t$/m ? 'unknown' : '', 'unknown', 'lag of standbys is for monitors only');
is(replicas(q{name, lag IS NULL}, role => 'pg_monitor') =~ /^report_slot\|f$/m ? 'known' : '', 'known', 'who see it');
$standbys[0]->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$authority->safe_psql('postgres', q{SELECT optout.opt_in('alice')});
like(errors_of($authority, q{CALL optout.settle_replicas('100 ms', '{report_slot}')}), qr/55000: .*\n.*Behind: report_slot\./, 'received is not applied');
$waiting->quit;
$waiting = OptoutTest::Session->new($authority);
$waiting->query('BEGIN; SELECT count(*) FROM pg_stat_replication');
$waiting->begin(q{CALL optout.settle_replicas(names => '{report_slot}')});
$standbys[0]->restart;
($out, $err) = $waiting->finish;
is($err, '', 'a connection made while it waits counts');
is($standbys[0]->safe_psql('postgres', q{SELECT optout.is_opted_out('alice')}), 'f', 'in force');

# who receives without applying is no replica
my $archive = PostgreSQL::Test::Utils::tempdir();
my $receiver = IPC::Run::start([ 'pg_receivewal', '-D', $archive, '-d', $authority->connstr . ' application_name=archive', '--synchronous' ]);
$authority->safe_psql('postgres', 'SELECT optout.opt_out(\'alice\')');
$authority->poll_query_until('postgres', q{SELECT flush_lsn IS NOT NULL FROM pg_stat_replication WHERE application_name = 'archive'})
  or die 'pg_receivewal is not connected';
unlike(replicas('name'), qr/archive/, 'pg_receivewal is not shown');
$receiver->signal('INT');
$receiver->finish;

$_->quit for @sessions, $waiting;
$_->stop for @standbys, @ingest, $authority;
done_testing();
