# settle_replicas() waits for what has been committed, and for no more: not for
# write-ahead log that is never sent.  What is no replica does not count.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $settings = "shared_preload_libraries = 'optout'\nautovacuum = off\nwal_retrieve_retry_interval = '100ms'\n";
# nothing is flushed there but by who needs it
my $authority = new_server('authority', { allows_streaming => 'logical' },
	$settings . "wal_writer_delay = '10s'\nwal_writer_flush_after = '1GB'\ncheckpoint_timeout = '1h'\n");
my $ingest = new_server('ingest', { allows_streaming => 'logical' }, $settings);
my $connstr = $authority->connstr . ' dbname=postgres';

# A quiet server writes something by itself every 15 seconds, which would end any
# wait for what is not sent.
my $settle = q{CALL optout.settle_replicas('10 s')};

$authority->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(ARRAY['alice', 'bob', 'carol']);
	CREATE ROLE nobody;
	CREATE TABLE event (user_id text);
	CREATE PUBLICATION opt_outs FOR TABLE optout.opt_out_period});
$authority->backup('base');
my $standby = OptoutTest::Server->new('standby');
$standby->init_from_backup($authority, 'base', has_streaming => 1);
$standby->start;
$ingest->safe_psql('postgres', 'CREATE EXTENSION optout');
$ingest->safe_psql('postgres', "CREATE SUBSCRIPTION ingest CONNECTION '$connstr' PUBLICATION opt_outs");
$ingest->wait_for_subscription_sync($authority, 'ingest');
is($authority->safe_psql('postgres', 'SELECT name, kind FROM optout.replicas ORDER BY 1'), "ingest|subscriber\nstandby|standby", 'replicas');

my $session = OptoutTest::Session->new($authority);
my $writing = OptoutTest::Session->new($authority);

sub settles
{
	my ($what) = @_;

	$session->begin($settle);
	my ($out, $err) = $session->finish;
	is($err, '', $what);
}

# How far the insert position is behind the start of its page
my $into_page = q{(pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint % current_setting('wal_block_size')::int};

settles('quiet');
$writing->query(q{BEGIN; INSERT INTO event VALUES ('bob')});
is($session->query('SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()'), 't', 'a transaction is writing');
settles('beside a transaction that is writing');
$writing->query(q{INSERT INTO event SELECT repeat('x', 100) FROM generate_series(1, 500)});
settles('beside one that has written pages');
$writing->query('ROLLBACK');

$session->query('SELECT pg_switch_wal()');
settles('after a switch of the log file');

# Write a message that ends with its page.  Its record takes more than its text.
# Again where a background process has written meanwhile.
my $at_start = 'f';
for (1 .. 20)
{
	$session->query(q{SELECT pg_switch_wal()});
	$session->query(qq{
		DO \$\$
		DECLARE
			start CONSTANT bigint := pg_current_wal_insert_lsn() - '0/0'::pg_lsn;
			more CONSTANT bigint := (pg_logical_emit_message(false, '', repeat('x', 1000)) - '0/0'::pg_lsn) - start - 1000;
			rest CONSTANT bigint := current_setting('wal_block_size')::int - $into_page;
		BEGIN
			PERFORM pg_logical_emit_message(false, '', repeat('x', (rest - more)::int));
		END \$\$});
	$at_start = $session->query("SELECT $into_page < 100");
	last if $at_start eq 't';
}
is($at_start, 't', 'at the start of a page');
settles('at the start of a page');

# What has been committed, and has not been flushed
for my $user ('alice', 'bob', 'carol')
{
	$session->query(qq{SET synchronous_commit = off; SELECT optout.opt_out('$user')});
	is($session->query('SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()'), 't', "$user: not flushed");
	settles("$user: committed asynchronously");
	is($_->safe_psql('postgres', qq{SELECT optout.is_opted_out('$user')}), 't', "$user: in force") for $ingest, $standby;
}
is($session->query(q{BEGIN READ ONLY; CALL optout.settle_replicas('1 min'); COMMIT}), '', 'in a transaction that only reads');
is($standby->safe_psql('postgres', $settle), '', 'on a standby');
is($session->query(q{SET ROLE nobody; CALL optout.settle_replicas('1 min', '{ingest}'); RESET ROLE}), '', 'by anybody');

# Slots of other consumers count until they are named
$authority->safe_psql('postgres', q{
	SELECT pg_create_logical_replication_slot('debezium', 'pgoutput');
	SELECT pg_create_physical_replication_slot('archive', true)});
like($session->query_fails(q{CALL optout.settle_replicas('0')}), qr/55000: .*\nDETAIL:  Behind: archive, debezium.*\.\nHINT:  See .* Name what receives no opt-outs in the setting optout\.no_replicas\./,
	'other consumers count');
like($session->query_fails(q{SET ROLE nobody; SET optout.no_replicas = 'debezium'}), qr/42501/, 'who may name them');
$session->query('RESET ROLE');
for my $names ('archive, debezium', 'archive,debezium,elsewhere', 'debezium  ,  archive')
{
	$authority->safe_psql('postgres', "ALTER DATABASE postgres SET optout.no_replicas = '$names'");
	is($authority->safe_psql('postgres', "$settle; SELECT name FROM optout.replicas ORDER BY 1; SELECT replica_lag ? 'debezium' FROM optout.status"),
		"ingest\nstandby\nf", "not when they are named: $names");
}
like(errors_of($authority, q{CALL optout.settle_replicas(names => '{debezium}')}), qr/42704: replica debezium does not exist/, 'and cannot be waited for');

$_->quit for $session, $writing;
$_->stop for $standby, $ingest, $authority;
done_testing();
