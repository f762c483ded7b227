# A server that cannot know who is opted out says so: while a subscription has not
# copied the list, and on a worker of Citus that no subscription feeds, filter and
# guards are errors.  They answer as soon as the list has been copied, and go on
# with what they know when the subscription is disabled or dropped.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $settings = "shared_preload_libraries = 'optout'\nautovacuum = off\nwal_retrieve_retry_interval = '100ms'\n";
my $authority = new_server('authority', { allows_streaming => 'logical' }, $settings);
# no worker copies anything yet
my $ingest = new_server('ingest', { allows_streaming => 'logical' }, $settings . "max_sync_workers_per_subscription = 0\n");
my $connstr = $authority->connstr . ' dbname=postgres';

$authority->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(ARRAY['alice', 'bob', 'carol']), optout.opt_out('alice');
	CREATE TABLE event (user_id text);
	CREATE PUBLICATION opt_outs FOR TABLE optout.opt_out_period;
	CREATE PUBLICATION events FOR TABLE event});
$ingest->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	CREATE ROLE reader;
	GRANT USAGE ON SCHEMA optout TO reader;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA optout TO reader;
	CREATE TABLE event (user_id text);
	SELECT optout.guard('event');
	CREATE TABLE staging (user_id text);
	INSERT INTO staging VALUES ('alice'), ('bob'), (NULL);
	ANALYZE staging});
$ingest->backup('base');
my $report = OptoutTest::Server->new('report');
$report->init_from_backup($ingest, 'base', has_streaming => 1);
$report->start;

my $open = OptoutTest::Session->new($ingest);
my $without_filter = OptoutTest::Session->new($ingest);
my $reporting = OptoutTest::Session->new($report);
$without_filter->query('SET optout.filter = off');

my %question = (
	accepts => q{SELECT string_agg(optout.accepts(user_id)::text, ' ') FROM staging},
	'accepts for an id' => q{SELECT optout.accepts(7)},
	is_opted_out => q{SELECT optout.is_opted_out('alice')},
	'event time' => q{SELECT optout.accepts('alice', occurred_at => now())},
	guard => q{INSERT INTO event SELECT * FROM staging},
	'guard, update' => q{INSERT INTO event VALUES (NULL); UPDATE event SET user_id = 'alice'},
	sign_in => q{SELECT optout.sign_in('alice')},
	purge => q{CALL optout.purge('{alice}')},
	'purge, dry run' => q{CALL optout.purge('{alice}', dry_run => true)},
	stored_events => q{SELECT optout.stored_events('{alice}')});

# How many workers copy tables.  A worker that is being started misses the signal to
# read the settings again, so the subscription's are started after it.
sub copy_workers
{
	my ($number, $sql) = @_;

	$ingest->safe_psql('postgres', 'ALTER SUBSCRIPTION ingest DISABLE');
	$ingest->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_subscription WHERE subname = 'ingest' AND pid IS NOT NULL})
	  or die 'not disabled';
	$ingest->set_and_reload('max_sync_workers_per_subscription', $number);
	$ingest->safe_psql('postgres', $sql) if defined $sql;
	$ingest->safe_psql('postgres', 'ALTER SUBSCRIPTION ingest ENABLE');
}

# Every question is an error, to everybody.
sub refused
{
	my ($what, $detail) = @_;
	my $error = qr/\A\S*ERROR:  55000: this server does not know(?: yet)? who is opted out\nDETAIL:  $detail\nHINT:  Let a subscription copy the table, or set optout\.assume_complete if the table is fed by other means\./;

	for my $name (sort keys %question)
	{
		like(errors_of($ingest, $question{$name}) =~ s/\Apsql:<stdin>:\d+: //r, $error, "$what: $name");
		for my $session ($open, $without_filter)
		{
			like($session->query_fails("BEGIN; $question{$name}") =~ s/\Apsql:<stdin>:\d+: //r, $error, "$what: $name, open session");
			$session->query('ROLLBACK');
		}
	}
	is($_->query('SELECT shared_filter, optout.verify() FROM optout.status'), 'incomplete|0', "$what: status") for $open, $without_filter;
	is($open->query('SELECT count(user_id) FROM event'), '0', "$what: nothing is stored");
}

# What is no question is none
sub no_question
{
	my ($what) = @_;

	is($open->query($_) =~ /Seq Scan|Result/ ? 'planned' : '', 'planned', "$what: $_")
	  for 'EXPLAIN SELECT * FROM staging WHERE optout.accepts(user_id)',
	  q{EXPLAIN SELECT * FROM staging WHERE optout.accepts('alice')},
	  q{EXPLAIN SELECT * FROM staging WHERE user_id = optout.is_opted_out('alice')::text};
	is($open->query(q{SELECT optout.accepts(NULL::text)}), 't', "$what: nobody's event");
	is($open->query('SELECT count(*) FROM optout.opt_out_list, optout.guarded'), '0', "$what: views");
}

sub answers
{
	my ($session, $what, $alice) = @_;

	is($session->query(qq{BEGIN; $question{accepts}; $question{is_opted_out}; ROLLBACK}), ($alice ? "true true\nf" : "false true\nt"), $what);
}

$question{accepts} = q{SELECT string_agg(optout.accepts(user_id)::text, ' ' ORDER BY user_id) FROM staging WHERE user_id IS NOT NULL};
answers($_, 'a list of its own', 1) for $open, $without_filter, $reporting;

# An open transaction, which trusts the filter, learns of a subscription at once
is($open->query(qq{BEGIN; $question{is_opted_out}; SELECT shared_filter FROM optout.status; $question{is_opted_out}}), "f\nready\nf", 'before, open transaction');

# The subscription is there, and no worker is free for the first copy
$ingest->safe_psql('postgres', "CREATE SUBSCRIPTION ingest CONNECTION '$connstr' PUBLICATION opt_outs");
$authority->poll_query_until('postgres', q{SELECT count(*) = 1 FROM optout.replicas WHERE connected})
  or die 'not connected';
my $detail = qr/Subscription "ingest" has not copied table "optout\.opt_out_period"\./;
my $state = q{SELECT string_agg(srsubstate::text, '') FROM pg_subscription_rel WHERE srrelid = 'optout.opt_out_period'::regclass};
is($ingest->safe_psql('postgres', $state), 'i', 'not begun');
like($open->query_fails($question{is_opted_out}), qr/55000: this server does not know yet/, 'not begun: open transaction');
$open->query('ROLLBACK');
refused('not begun', $detail);
no_question('not begun');
is($authority->safe_psql('postgres', q{CALL optout.settle_replicas('1 min'); SELECT name, lag FROM optout.replicas}), 'ingest|0',
	'the publisher cannot know');
$ingest->wait_for_catchup($report, 'replay', $ingest->lsn('insert'));
like($reporting->query_fails($_), qr/55000: this server does not know yet/, 'a standby does not know either')
  for @question{'accepts', 'is_opted_out'};
is($reporting->query('SELECT shared_filter FROM optout.status'), 'incomplete', 'and says so');

# Events that arrive by a subscription of their own wait for the list, too
$ingest->safe_psql('postgres', "CREATE SUBSCRIPTION events CONNECTION '$connstr' PUBLICATION events WITH (copy_data = false)");
$authority->safe_psql('postgres', q{INSERT INTO event VALUES ('alice'), ('bob')});

# What a superuser can say
like($open->query_fails('SET ROLE reader; SET optout.assume_complete = on'), qr/42501: permission denied to set parameter/, 'not for anybody to say');
$open->query('RESET ROLE');
$open->query('SET optout.assume_complete = on');
answers($open, 'fed by other means', 1);
is($open->query('SELECT shared_filter FROM optout.status'), 'ready', 'fed by other means: status');
$open->query('RESET optout.assume_complete');
like($open->query_fails($question{accepts}), $detail, 'no longer');

# The list is being copied
my $lock = OptoutTest::Session->new($authority);
$lock->query('SELECT pg_advisory_lock(1)');
$authority->safe_psql('postgres', q{
	CREATE FUNCTION wait() RETURNS boolean LANGUAGE sql SECURITY DEFINER AS 'SELECT pg_advisory_lock_shared(1) IS NOT NULL';
	CREATE ROLE replicator REPLICATION LOGIN;
	GRANT USAGE ON SCHEMA optout TO replicator;
	GRANT SELECT ON optout.opt_out_period TO replicator;
	ALTER TABLE optout.opt_out_period ENABLE ROW LEVEL SECURITY;
	CREATE POLICY wait ON optout.opt_out_period TO replicator USING (wait())});
copy_workers(2, "ALTER SUBSCRIPTION ingest CONNECTION '$connstr user=replicator'");
$authority->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted})
  or die 'no copy';
is($ingest->safe_psql('postgres', $state), 'd', 'being copied');
refused('being copied', $detail);

# ... and has been.  Who had a transaction open need not end it.
$_->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM staging') for $open, $without_filter;
$lock->query('SELECT pg_advisory_unlock(1)');
$ingest->poll_query_until('postgres', "SELECT ($state) IN ('f', 's', 'r')") or die 'not copied';
is($_->query($question{accepts}), 'false true', 'copied: at once, in an open transaction') for $open, $without_filter;
$_->query('COMMIT') for $open, $without_filter;
answers($_, 'copied', 0) for $open, $without_filter;
is($ingest->safe_psql('postgres', $question{guard} . ' RETURNING user_id'), "bob\n", 'copied: guard');
is($open->query('SELECT shared_filter, optout.verify() FROM optout.status'), 'ready|0', 'copied: status');
$ingest->wait_for_catchup($report, 'replay', $ingest->lsn('insert'));
answers($reporting, 'copied: standby', 0);
$authority->wait_for_catchup('events');
is($ingest->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE user_id = 'alice'), count(*) FILTER (WHERE user_id = 'bob') FROM event}), '0|2',
	'copied: events that waited for it');

# An opt-out belongs to the publisher
my $opt_out = q{SELECT optout.enroll('dora'); SELECT optout.opt_out('dora'); SELECT optout.forget('dora', force => true)};
is(() = errors_of($ingest, $opt_out) =~ /WARNING:  01000: this server gets its opt-outs by subscription "ingest"/g, 2,
	'a warning for each command that changes the list');
is(errors_of($authority, $opt_out), '', 'none on the publisher');
$authority->safe_psql('postgres', 'DROP POLICY wait ON optout.opt_out_period; ALTER TABLE optout.opt_out_period DISABLE ROW LEVEL SECURITY');

# Goes on with what it knows
$ingest->poll_query_until('postgres', "SELECT ($state) = 'r'") or die 'not ready';
$ingest->safe_psql('postgres', 'ALTER SUBSCRIPTION ingest DISABLE');
answers($open, 'disabled', 0);
$ingest->safe_psql('postgres', 'ALTER SUBSCRIPTION ingest ENABLE');
$authority->safe_psql('postgres', 'ALTER PUBLICATION opt_outs DROP TABLE optout.opt_out_period');
$ingest->safe_psql('postgres', 'ALTER SUBSCRIPTION ingest REFRESH PUBLICATION');
answers($open, 'no longer published', 0);

# A table that is published again is copied again
copy_workers(0);
$authority->safe_psql('postgres', 'ALTER PUBLICATION opt_outs ADD TABLE optout.opt_out_period');
$ingest->safe_psql('postgres', 'ALTER SUBSCRIPTION ingest REFRESH PUBLICATION');
is($ingest->safe_psql('postgres', $state), 'i', 'published again');
$ingest->safe_psql('postgres', 'TRUNCATE event');
refused('published again', $detail);

# Neither a copy of the database nor a dump of it waits for the subscription
$_->quit for $open, $without_filter;
$ingest->safe_psql('postgres', 'ALTER SUBSCRIPTION ingest DISABLE; ALTER SUBSCRIPTION events DISABLE');
$ingest->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'postgres'}) or die 'in use';
$ingest->safe_psql('template1', 'CREATE DATABASE copy TEMPLATE postgres; CREATE DATABASE restored');
is($ingest->safe_psql('copy', $state), 'i', 'a copy of the database holds the row');
is($ingest->safe_psql('copy', $question{accepts}), 'false true', 'but not the subscription');
IPC::Run::run([ 'pg_dump', '-d', $ingest->connstr('postgres') ], '|', [ 'psql', '-Xq', '-d', $ingest->connstr('restored') ], '>', \my $output)
  or die 'not restored';
is($ingest->safe_psql('restored', $question{accepts}), 'false true', 'a restored one has the list that was dumped');

# Without the subscription it goes on with what it knows
$ingest->safe_psql('postgres', 'DROP SUBSCRIPTION ingest; DROP SUBSCRIPTION events');
$open = OptoutTest::Session->new($ingest);
$without_filter = OptoutTest::Session->new($ingest);
$without_filter->query('SET optout.filter = off');
answers($_, 'dropped', 0) for $open, $without_filter;
is(errors_of($ingest, $opt_out), '', 'a list of its own again: no warning');

# The order in which a server gets its list anew
my ($drop, @anew) = (slurp_file("$FindBin::RealBin/../../doc/fleet.md") =~ /^```sql ingest server\n(DROP.*?)^```$/ms)[0] =~ /[^;]+;/g;
like($drop, qr/DROP SUBSCRIPTION ingest1;/, 'dropped');
$ingest->set_and_reload('max_sync_workers_per_subscription', 2);
for my $sql (@anew)
{
	is($ingest->safe_psql('postgres', $state), 'i', 'nothing is copied yet') if $sql !~ /CREATE/;
	$sql =~ s/CONNECTION '.*?'/CONNECTION '$connstr'/;
	$sql =~ s/ingest1/ingest/;
	$ingest->safe_psql('postgres', $sql);
	refused($sql, $detail) if $sql !~ /ENABLE/;
}
$ingest->poll_query_until('postgres', "SELECT ($state) = 'r'") or die 'not copied anew';
answers($_, 'copied anew', 0) for $open, $without_filter;
$ingest->safe_psql('postgres', 'DROP SUBSCRIPTION ingest');

# A worker of Citus, as far as it matters here: Citus has its table in pg_catalog
# and has everybody look again when it writes to it
sub citus
{
	my ($sql) = @_;

	$ingest->safe_psql('postgres', "SET allow_system_table_mods = on; $sql; ALTER TABLE pg_catalog.pg_dist_local_group ALTER COLUMN groupid SET STATISTICS 1");
}
$detail = qr/No subscription has copied table "optout\.opt_out_period" to this worker of Citus\./;
citus('CREATE TABLE pg_catalog.pg_dist_local_group (groupid integer PRIMARY KEY); INSERT INTO pg_catalog.pg_dist_local_group VALUES (0)');
answers($_, 'coordinator', 0) for $open, $without_filter;
citus('UPDATE pg_catalog.pg_dist_local_group SET groupid = 2');
refused('worker', $detail);
no_question('worker') if $open->query('TRUNCATE optout.opt_out_period; SELECT true') eq 't';
citus('DELETE FROM pg_catalog.pg_dist_local_group');
like($open->query_fails($question{accepts}), $detail, 'worker being upgraded');
citus('INSERT INTO pg_catalog.pg_dist_local_group VALUES (1)');
$ingest->set_and_reload('max_sync_workers_per_subscription', 2);
$ingest->safe_psql('postgres', "CREATE SUBSCRIPTION ingest CONNECTION '$connstr' PUBLICATION opt_outs");
$ingest->poll_query_until('postgres', "SELECT ($state) IN ('f', 's', 'r')") or die 'not copied';
answers($_, 'worker that follows', 0) for $open, $without_filter;
$ingest->safe_psql('postgres', 'DROP SUBSCRIPTION ingest');
refused('worker that follows no more', $detail);
$ingest->safe_psql('postgres', 'SET allow_system_table_mods = on; DROP TABLE pg_catalog.pg_dist_local_group');
answers($_, 'no worker', 0) for $open, $without_filter;
citus('CREATE TABLE pg_catalog.pg_dist_local_group (groupid integer PRIMARY KEY); INSERT INTO pg_catalog.pg_dist_local_group VALUES (1)');
like($open->query_fails($question{accepts}), $detail, 'a server that becomes one');

$_->quit for $open, $without_filter, $reporting, $lock;
$_->stop for $report, $ingest, $authority;
done_testing();
