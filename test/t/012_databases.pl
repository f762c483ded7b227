# One filter for all databases: each has its own keys, loaded on its own, also if
# it is a copy or takes another's place.  And what becomes of filter and memo where
# the state table is rewritten, truncated, dropped and created again.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nautovacuum = off\n");

my $all = q{(SELECT 'u' || n AS u FROM generate_series(1, 50) AS n) AS s};
my $discarded = qq{
	WITH stored AS (INSERT INTO event SELECT u FROM $all RETURNING user_id)
	SELECT concat_ws(' / ',
		coalesce(string_agg(u, ' ' ORDER BY u) FILTER (WHERE NOT optout.accepts(u)), '-'),
		coalesce(string_agg(u, ' ' ORDER BY u) FILTER (WHERE optout.is_opted_out(u)), '-'),
		coalesce(string_agg(u, ' ' ORDER BY u) FILTER (WHERE u NOT IN (SELECT user_id FROM stored)), '-'))
	  FROM $all};
my $status = 'SELECT shared_filter, optout.verify() FROM optout.status';
my $enroll = q{SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 50) AS n};
my %sessions;

sub connect_session
{
	my ($db) = @_;

	$sessions{$db}->quit if defined $sessions{$db};
	$sessions{$db} = OptoutTest::Session->new($node, dbname => $db);
	$sessions{$db}->query($discarded) for 1 .. 2;
}

sub check
{
	my ($db, $out, $what) = @_;
	my $expected = "$out / $out / $out";

	is($node->safe_psql($db, "SET optout.filter = off; $discarded"), $expected, "$what: $db, table");
	is($sessions{$db}->query($discarded), $expected, "$what: $db, old session");
	is($node->safe_psql($db, $discarded), $expected, "$what: $db, new session");
	is($sessions{$db}->query($status), 'ready|0', "$what: $db, status");
}

# What answers that these users are not opted out?
sub lookups_of
{
	my ($db, $users) = @_;
	my $count = 'SELECT lookups_filter, lookups_memo, lookups_table FROM optout.status';
	my $session = $sessions{$db};

	my @before = split /\|/, $session->query($count);
	$session->query("SELECT optout.accepts(u) FROM unnest('{$users}'::text[]) AS u");
	my @after = split /\|/, $session->query($count);
	return join ' ', map { $after[$_] - $before[$_] } 0 .. 2;
}

#
# Copies
#
$node->safe_psql('postgres', 'CREATE DATABASE a');
$node->safe_psql('a', qq{
	CREATE EXTENSION optout;
	CREATE TABLE event (user_id text);
	SELECT optout.guard('event');
	$enroll;
	SELECT optout.opt_out('u1')});
is($node->safe_psql('a', $discarded), 'u1 / u1 / u1', 'loaded before it is copied');
$node->safe_psql('postgres', "CREATE DATABASE b TEMPLATE a STRATEGY $_; DROP DATABASE b") for 'wal_log', 'file_copy';
$node->safe_psql('postgres', 'CREATE DATABASE b TEMPLATE a STRATEGY wal_log');
$node->safe_psql('postgres', 'CREATE DATABASE c TEMPLATE a STRATEGY file_copy');
connect_session($_) for qw(a b c);
check($_, 'u1', 'copied') for qw(a b c);

$node->safe_psql('a', "SELECT optout.opt_out('u2')");
$node->safe_psql('b', "SELECT optout.opt_out('u3'), optout.opt_in('u1')");
$node->safe_psql('c', "SELECT optout.opt_out('u4')");
check('a', 'u1 u2', 'each its own');
check('b', 'u3', 'each its own');
check('c', 'u1 u4', 'each its own');
is(lookups_of('a', 'u3,u4,u5'), '3 0 0', 'the filter knows databases apart');
is(lookups_of('b', 'u2,u4,u5'), '3 0 0', 'the filter knows databases apart');

$node->restart;
connect_session($_) for qw(a b c);
check('a', 'u1 u2', 'restart');
check('b', 'u3', 'restart');
check('c', 'u1 u4', 'restart');

# A database that takes the place of another, down to its OID and those of
# everything in it.
$_->quit for values %sessions;
%sessions = ();
$node->safe_psql('postgres', 'CREATE DATABASE d TEMPLATE a OID = 1000000');
connect_session('d');
check('d', 'u1 u2', 'database with a given OID');
$sessions{d}->quit;
delete $sessions{d};
$node->safe_psql('postgres', 'DROP DATABASE d');
$node->safe_psql('a', "SELECT optout.opt_out('u5')");
$node->safe_psql('postgres', 'CREATE DATABASE d TEMPLATE a OID = 1000000');
connect_session('d');
check('d', 'u1 u2 u5', 'database with the OID of a dropped one');
$sessions{d}->quit;
delete $sessions{d};
$node->safe_psql('postgres', 'DROP DATABASE d');

#
# The state table rewritten, emptied, moved
#
connect_session('a');
for my $command (
	'VACUUM FULL optout.opt_out_period', 'VACUUM FULL pg_trigger', 'VACUUM FULL',
	'CLUSTER optout.opt_out_period USING opt_out_period_pkey',
	'REINDEX TABLE optout.opt_out_period', 'REINDEX TABLE CONCURRENTLY optout.opt_out_period',
	'REINDEX INDEX optout.opt_out_period_pkey',
	'VACUUM FREEZE optout.opt_out_period', 'ANALYZE',
	'ALTER TABLE optout.opt_out_period SET UNLOGGED', 'ALTER TABLE optout.opt_out_period SET LOGGED',
	'ALTER TABLE optout.opt_out_period ADD COLUMN note text DEFAULT clock_timestamp()::text')
{
	$node->safe_psql('a', $command);
	check('a', 'u1 u2 u5', $command);
}
my @users = map { "u$_" } 6 .. 40;
my $fresh = shift @users;
$node->safe_psql('a', "SELECT optout.opt_out('$fresh')");
check('a', "u1 u2 u5 $fresh", 'opted out after all that');

$node->safe_psql('a', 'TRUNCATE optout.opt_out_period');
check('a', '-', 'TRUNCATE');
$fresh = shift @users;
$node->safe_psql('a', "SELECT optout.opt_out('$fresh')");
check('a', $fresh, 'opted out after TRUNCATE');
$sessions{a}->query('BEGIN; TRUNCATE optout.opt_out_period');
is($sessions{a}->query($discarded), '- / - / -', 'own TRUNCATE');
$sessions{a}->query('ROLLBACK');
check('a', $fresh, 'TRUNCATE rolled back');
$sessions{a}->query('BEGIN; SAVEPOINT s; TRUNCATE optout.opt_out_period');
is($sessions{a}->query($discarded), '- / - / -', 'own TRUNCATE within a savepoint');
$sessions{a}->query('ROLLBACK TO s');
is($sessions{a}->query($discarded), "$fresh / $fresh / $fresh", 'own TRUNCATE undone');
$sessions{a}->query('COMMIT');
check('a', $fresh, 'own TRUNCATE undone');

#
# The extension dropped and created while others have filter and memo loaded
#
my $anew = "DROP TRIGGER optout_guard ON event; DROP EXTENSION optout; CREATE EXTENSION optout; SELECT optout.guard('event'); $enroll";

$fresh = shift @users;
$node->safe_psql('a', "BEGIN; $anew; COMMIT; SELECT optout.opt_out('$fresh')");
check('a', $fresh, 'DROP and CREATE EXTENSION');

$sessions{a}->query("BEGIN; $anew; SELECT optout.opt_out('" . shift(@users) . "')");
$sessions{a}->query($discarded);
$sessions{a}->query('ROLLBACK');
check('a', $fresh, 'DROP and CREATE EXTENSION rolled back');

$node->safe_psql('a', 'DROP EXTENSION optout CASCADE');
like($sessions{a}->query_fails('SELECT optout.accepts(1)'), qr/ERROR:  3F000/, 'extension dropped');
$fresh = shift @users;
$node->safe_psql('a', "CREATE EXTENSION optout; SELECT optout.guard('event'); $enroll; SELECT optout.opt_out('$fresh')");
check('a', $fresh, 'DROP, and CREATE EXTENSION later');

# with rows of which the new table's trigger knows nothing
$fresh = shift @users;
$node->safe_psql('a', qq{
	$anew;
	ALTER TABLE optout.opt_out_period DISABLE TRIGGER ALL;
	INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by) VALUES ('default', '$fresh', now(), 'x');
	ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter});
check('a', $fresh, 'DROP and CREATE EXTENSION, trigger disabled');

# in one transaction with its first opt-out, undone and done again
for my $end ('ROLLBACK', 'COMMIT')
{
	$fresh = shift @users;
	$sessions{c}->quit if defined $sessions{c};
	delete $sessions{c};
	$node->safe_psql('postgres', "DROP DATABASE IF EXISTS c");
	$node->safe_psql('postgres', "CREATE DATABASE c");
	$sessions{c} = OptoutTest::Session->new($node, dbname => 'c');
	$sessions{c}->query(qq{
		CREATE TABLE event (user_id text);
		BEGIN; CREATE EXTENSION optout; SELECT optout.guard('event'); $enroll; SELECT optout.opt_out('$fresh')});
	is($sessions{c}->query($discarded), "$fresh / $fresh / $fresh", "CREATE EXTENSION, before $end");
	# the keys are added once it is committed
	is($sessions{c}->query($status), 'loading|0', "CREATE EXTENSION, before $end: status");
	$sessions{c}->query($end);
	if ($end eq 'ROLLBACK')
	{
		$fresh = shift @users;
		$sessions{c}->query(qq{
			CREATE EXTENSION optout; SELECT optout.guard('event'); $enroll; SELECT optout.opt_out('$fresh')});
	}
	check('c', $fresh, "CREATE EXTENSION, after $end");
}

#
# Without a shared filter the memo answers as exactly
#
$_->quit for values %sessions;
%sessions = ();
for my $settings ("optout.filter_memory = 0", "shared_preload_libraries = ''")
{
	$node->append_conf('postgresql.conf', $settings);
	$node->restart;
	my $session = OptoutTest::Session->new($node, dbname => 'a');
	my $now = $node->safe_psql('a', q{SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM optout.opt_out_list});

	is($session->query("$discarded; $discarded"), join("\n", ("$now / $now / $now") x 2), "$settings");
	is($session->query('SELECT shared_filter, memory IS NULL, lookups_memo IS NULL, optout.verify() FROM optout.status'),
		'absent|t|t|0', "$settings: status");
	$fresh = shift @users;
	$node->safe_psql('a', "SELECT optout.opt_out('$fresh')");
	$now = join ' ', sort split(/ /, $now), $fresh;
	is($session->query("$discarded; $discarded"), join("\n", ("$now / $now / $now") x 2), "$settings: opted out");
	$node->safe_psql('a', qq{
		BEGIN; ALTER TABLE optout.opt_out_period DISABLE TRIGGER ALL; DELETE FROM optout.opt_out_period WHERE user_id = '$fresh';
		ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter; COMMIT});
	$now =~ s/ ?\b$fresh\b//;
	is($session->query("$discarded; $discarded"), join("\n", ("$now / $now / $now") x 2), "$settings: deleted with the trigger disabled");
	$session->quit;
}

$node->stop;
done_testing();
