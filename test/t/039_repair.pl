# What "pg_restore --data-only --disable-triggers" leaves: neither the filter nor
# replication by the guards.  optout.repair() puts back both.  And uninstalling: the
# dump of the state that doc/upgrading.md names, and the way back from it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {}, "shared_preload_libraries = 'optout'\nautovacuum = off");
my $dir = PostgreSQL::Test::Utils::tempdir;

my $tables = q{
	CREATE EXTENSION optout;
	CREATE TABLE event (user_id text, what text);
	CREATE TABLE event_old () INHERITS (event);
	CREATE TABLE parted (user_id text, k int) PARTITION BY LIST (k);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
	SELECT optout.guard('event_old'), optout.guard('event'), optout.guard('parted')};
$node->safe_psql('postgres', 'CREATE DATABASE source; CREATE DATABASE target; CREATE ROLE administrator');
$node->safe_psql($_, $tables) for 'source', 'target';
$node->safe_psql('source', q{
	INSERT INTO event VALUES ('alice', 'stored before');
	INSERT INTO event_old VALUES ('alice', 'stored before');
	INSERT INTO parted VALUES ('alice', 1);
	SELECT optout.enroll('{alice,bob}'::text[]), optout.opt_out('alice');
	SELECT optout.grant_authority('administrator', 'default', 'administer');
	INSERT INTO event VALUES ('alice', 'discarded')});

# What a replication worker and everybody else can store of a user who is out.
my $stored = q{
	BEGIN;
	DELETE FROM event; DELETE FROM parted;
	SET LOCAL session_replication_role = replica;
	INSERT INTO event VALUES ('alice', 'replicated');
	INSERT INTO event_old VALUES ('alice', 'replicated');
	INSERT INTO parted VALUES ('alice', 1);
	SELECT (SELECT count(*) FROM event) + (SELECT count(*) FROM parted);
	ROLLBACK};
my $status = 'SELECT shared_filter FROM optout.status';

my $session = OptoutTest::Session->new($node, dbname => 'target');
$session->query(q{SELECT optout.accepts('alice')});
is($session->query($status), 'ready', 'filter before');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", $node->connstr('source') ], 'pg_dump');
$node->command_ok(
	[ 'pg_restore', '-e', '--data-only', '--disable-triggers', '-d', $node->connstr('target'), "$dir/dump" ],
	'pg_restore --data-only --disable-triggers');
$session->query(q{SELECT optout.accepts('alice')});
is($session->query($status), 'not used', 'the restore has left the filter unused');
is($node->safe_psql('target', $stored), '3', 'and guards that replication passes');
is( $node->safe_psql('target', q{SELECT relation, fires FROM optout.guarded ORDER BY relation::text}),
	"event|origin\nevent_old|origin\nparted|always\nparted_1|origin", 'as the view says');

is($node->safe_psql('target', 'SELECT optout.repair()'), '4', 'repair() puts back four triggers');
is($session->query(q{SELECT optout.accepts('alice')}), 'f', 'an open session answers');
is($session->query($status), 'ready', 'by the filter');
is($node->safe_psql('target', 'SELECT optout.verify()'), '0', 'which misses nobody');
is($node->safe_psql('target', $stored), '0', 'replication does not pass the guards');
is( $node->safe_psql('target', q{SELECT relation, fires FROM optout.guarded ORDER BY relation::text}),
	"event|always\nevent_old|always\nparted|always", 'as the view says');
is($node->safe_psql('target', 'SELECT count(*) FROM event'), '2', 'what had been stored was restored');
is($node->safe_psql('target', 'SELECT optout.repair()'), '0', 'there is no more to repair');
$session->quit;

# It waits for those who write to what it alters, for nobody else, and while it waits
# nobody waits for it who writes to other tables.
my $writer = OptoutTest::Session->new($node, dbname => 'target');
my $repairer = OptoutTest::Session->new($node, dbname => 'target');
$node->safe_psql('target', 'ALTER TABLE event_old ENABLE TRIGGER optout_guard');
$writer->query(q{BEGIN; INSERT INTO parted VALUES ('bob', 1); INSERT INTO event VALUES ('bob')});
is($repairer->query('SELECT optout.repair()'), '1', 'repair() does not wait for writers to other tables');
$node->safe_psql('target', 'ALTER TABLE event_old ENABLE TRIGGER optout_guard');
$writer->query(q{INSERT INTO event_old VALUES ('bob')});
like($repairer->query_fails(q{SET lock_timeout = '10ms'; SELECT optout.repair()}), qr/55P03: canceling statement due to lock timeout/,
	'lock_timeout limits how long it waits');
$repairer->query('RESET lock_timeout');
$repairer->begin('SELECT optout.repair()');
$repairer->wait_for_lock($node);
$writer->query(q{INSERT INTO parted VALUES ('bob', 1); COMMIT});
is(($repairer->finish)[0], '1', 'repair() waits for writers of what it alters');
$_->quit for $writer, $repairer;

# A table that is dropped, or a guard that is taken off, while it waits is none of its
# business any more.
for my $statement (q{DROP TABLE doomed}, q{SELECT optout.unguard('doomed')}, q{ALTER TABLE doomed ENABLE ALWAYS TRIGGER optout_guard})
{
	$node->safe_psql('target', q{
		DROP TABLE IF EXISTS doomed;
		CREATE TABLE doomed (user_id text);
		SELECT optout.guard('doomed');
		ALTER TABLE doomed DISABLE TRIGGER ALL});
	$_ = OptoutTest::Session->new($node, dbname => 'target') for $writer, $repairer;
	$writer->query("BEGIN; $statement");
	$repairer->begin('SELECT optout.repair()');
	$repairer->wait_for_lock($node);
	$writer->query('COMMIT');
	is(($repairer->finish)[0], '0', "repair() goes on after: $statement");
	$_->quit for $writer, $repairer;
}
$node->safe_psql('target', 'DROP TABLE doomed');

# The warning that names an id is its caller's, not the log's.
like(errors_of($node, q{SET log_statement = none; SELECT optout.enroll('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11')}, dbname => 'target'),
	qr/WARNING:  01000: user id "A0EEBC99/, 'enroll() warns of what is no text form of a uuid');
unlike(slurp_file($node->logfile), qr/A0EEBC99|a0eebc99/, 'but not in the log');

# Uninstalling, with the blocks of doc/upgrading.md, of guards that were renamed and
# altered.
my ($uninstalling) = slurp_file("$FindBin::RealBin/../../doc/upgrading.md") =~ /\n## Uninstalling\n(.*)/s;
my ($dump) = $uninstalling =~ /```sh\n(.*?)```/s;
my ($statements) = $uninstalling =~ /```sql\n(.*?)```/s;

$node->safe_psql('target', q{
	ALTER TRIGGER optout_guard ON event RENAME TO renamed;
	SELECT optout.guard('event');
	ALTER TABLE parted_1 DISABLE TRIGGER ALL;
	ALTER TABLE parted DISABLE TRIGGER ALL});
my $state = q{
	SELECT u::text FROM optout.product_user u
	UNION ALL SELECT p::text FROM optout.opt_out_period p
	UNION ALL SELECT l::text FROM optout.discard_ledger l
	UNION ALL SELECT a::text FROM optout.authority a ORDER BY 1};
my $expected = $node->safe_psql('target', $state);
cmp_ok(scalar(split /\n/, $expected), '>=', 5, 'there is state to lose');

my ($out, $err);
IPC::Run::run([ 'pg_dump', '-n', 'optout', '-d', $node->connstr('target') ], '>', \$out, '2>', \$err);
unlike($out, qr/alice/, 'pg_dump -n optout dumps nothing');
like($dump, qr/^pg_dump .*product >optout\.sql$/m, 'the page names another command');
(my $command = $dump) =~ s/\bproduct >optout\.sql/-d '@{[ $node->connstr('target') ]}' >$dir\/optout.sql/;
is(system($command), 0, 'it succeeds');
$node->safe_psql('target', $statements);
is($node->safe_psql('target', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'optout'}), '0', 'the page uninstalls');
is($node->safe_psql('target', q{SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal}), '0', 'no guard is left');
$node->command_ok([ 'psql', '-Xq1', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('target'), '-f', "$dir/optout.sql" ],
	'the dump restores');
is($node->safe_psql('target', $state), $expected, 'what there was');
is($node->safe_psql('target', q{SELECT optout.accepts('alice'), optout.accepts('bob')}), 'f|t', 'and the filter answers by it');

$node->stop;
done_testing();
