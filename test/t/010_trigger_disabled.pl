# Rows that reach the state table while its trigger is disabled, dropped, renamed
# or does not fire always.  Sessions that have loaded filter and memo, and new
# ones, must answer as the table does at each step.  Each case has users whom no
# earlier one has used, for the filter remembers whom it has seen.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nmax_prepared_transactions = 10\nautovacuum = off\n");
my $dumps = $node->basedir;

# All users, by what accepts(), is_opted_out() and the guard say of them.
my $all = q{(SELECT 'u' || n AS u FROM generate_series(1, 90) AS n) AS s};
my $discarded = qq{
	WITH stored AS (INSERT INTO event SELECT u FROM $all RETURNING user_id)
	SELECT concat_ws(' / ',
		coalesce(string_agg(u, ' ' ORDER BY u) FILTER (WHERE NOT optout.accepts(u)), '-'),
		coalesce(string_agg(u, ' ' ORDER BY u) FILTER (WHERE optout.is_opted_out(u)), '-'),
		coalesce(string_agg(u, ' ' ORDER BY u) FILTER (WHERE u NOT IN (SELECT user_id FROM stored)), '-'))
	  FROM $all};
my $status = 'SELECT shared_filter, optout.verify() FROM optout.status';

my $state = 'optout.opt_out_period';
my $disable = "ALTER TABLE $state DISABLE TRIGGER ALL";
my $enable = "ALTER TABLE $state ENABLE ALWAYS TRIGGER optout_filter";
my %out;
my $users = 0;
my $old;
my $open;

sub fresh { return 'u' . ++$users }

# An INSERT of an opt-out.
sub put
{
	my ($user) = @_;
	return "INSERT INTO $state (organization, user_id, opted_out_at, opted_out_by) VALUES ('default', '$user', now(), 'x')";
}

sub expected
{
	my $list = join(' ', sort keys %out) || '-';
	return "$list / $list / $list";
}

# Sessions with filter and memo loaded; one of them in a transaction all the time.
sub connect_sessions
{
	$_->quit for grep { defined $_ } $old, $open;
	$old = OptoutTest::Session->new($node);
	$open = OptoutTest::Session->new($node);
	$open->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');
	for my $session ($old, $open)
	{
		$session->query($discarded) for 1 .. 2;
	}

	# for whoever alters the table now
	$open->query('COMMIT');
}

sub check
{
	my ($what, %params) = @_;
	my $expected = expected();

	is($node->safe_psql('postgres', "SET optout.filter = off; $discarded"), $expected, "$what: table");
	is($old->query($discarded), $expected, "$what: old session");
	is($open->query("BEGIN ISOLATION LEVEL REPEATABLE READ; $discarded; $discarded; COMMIT"),
		"$expected\n$expected", "$what: old session, in a transaction");
	is($node->safe_psql('postgres', $discarded), $expected, "$what: new session");
	is($old->query($status), ($params{status} // 'ready') . '|0', "$what: status");
}

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 90) AS n;
	CREATE TABLE event (user_id text);
	SELECT optout.guard('event')});
for my $user (map { fresh() } 1 .. 3)
{
	$node->safe_psql('postgres', "SELECT optout.opt_out('$user')");
	$out{$user} = 1;
}
my $create = $node->safe_psql('postgres', q{
	SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'optout.opt_out_period'::regclass AND tgname = 'optout_filter'});
connect_sessions();
check('opted out');

#
# In one transaction
#
my ($a, $b, $c, $d);

$out{ $a = fresh() } = 1;
$node->safe_psql('postgres', "BEGIN; $disable; " . put($a) . "; $enable; COMMIT");
check('INSERT');

$out{ $_ = fresh() } = 1 for $b, $c;
$node->safe_psql('postgres', qq{
	BEGIN;
	$disable;
	COPY $state (organization, user_id, opted_out_at, opted_out_by) FROM STDIN;
default	$b	2026-01-01	x
default	$c	2026-01-01	x
\\.
	$enable;
	COMMIT;});
check('COPY');

$d = fresh();
$node->safe_psql('postgres', "BEGIN; $disable; UPDATE $state SET user_id = '$d' WHERE user_id = '$a'; $enable; COMMIT");
delete $out{$a};
$out{$d} = 1;
check('UPDATE');

$node->safe_psql('postgres', "BEGIN; $disable; DELETE FROM $state WHERE user_id = '$b'; $enable; COMMIT");
delete $out{$b};
check('DELETE');

$node->safe_psql('postgres', qq{
	BEGIN; $disable; UPDATE $state SET opted_in_at = now(), opted_in_by = 'x' WHERE user_id = '$c'; $enable; COMMIT});
delete $out{$c};
check('UPDATE that ends a period');

$out{ $a = fresh() } = 1;
$node->safe_psql('postgres', "BEGIN; ALTER TABLE $state DISABLE TRIGGER optout_filter; " . put($a) . "; $enable; COMMIT");
check('one trigger disabled by its name');

#
# In several transactions
#
$node->safe_psql('postgres', $disable);
check('disabled', status => 'not used');
$out{ $a = fresh() } = 1;
$node->safe_psql('postgres', put($a));
check('INSERT while disabled', status => 'not used');
$node->safe_psql('postgres', "DELETE FROM $state WHERE user_id = '$a'");
delete $out{$a};
check('DELETE while disabled', status => 'not used');
$out{ $b = fresh() } = 1;
$node->safe_psql('postgres', put($b));
$node->safe_psql('postgres', $enable);
check('enabled again');

# with no look-up while it is disabled
$out{ $a = fresh() } = 1;
$node->safe_psql('postgres', $_) for $disable, put($a), $enable;
check('disabled and enabled again');

# The catalog row's new version takes the place of one that has been vacuumed
# away, the very one under which the keys were added.
my $ctid = "SELECT ctid FROM pg_trigger WHERE tgrelid = '$state'::regclass AND tgname = 'optout_filter'";
my $reused = 0;
for (1 .. 10)
{
	check('before a place is taken again');
	my $before = $node->safe_psql('postgres', $ctid);

	$out{ $a = fresh() } = 1;
	$node->safe_psql('postgres', $_) for $disable, put($a), 'VACUUM pg_trigger', $enable;
	$reused = $node->safe_psql('postgres', $ctid) eq $before;
	last if $reused;
}
ok($reused, 'place in the catalog is taken again');
check('place in the catalog taken again');

#
# Rolled back
#
$node->safe_psql('postgres', "BEGIN; $disable; " . put(fresh()) . "; $enable; $discarded; ROLLBACK");
check('rolled back');
$node->safe_psql('postgres', "BEGIN; $disable; ROLLBACK");
check('DISABLE rolled back');

($a, $b) = (fresh(), fresh());
$out{$b} = 1;
$old->query("BEGIN; SAVEPOINT s; $disable; " . put($a) . "; $enable");
is($old->query($discarded), do { local $out{$a} = 1; local $out{$b}; delete $out{$b}; expected() },
	'within a savepoint');
$old->query("ROLLBACK TO s; $disable; " . put($b) . "; $enable");
is($old->query($discarded), expected(), 'after ROLLBACK TO');
$old->query('COMMIT');
check('rolled back to a savepoint, then again');

$a = fresh();
$old->query("BEGIN; SAVEPOINT s; $disable; " . put($a) . "; ROLLBACK TO s");
is($old->query($discarded), expected(), 'DISABLE undone by ROLLBACK TO');
is($old->query($status), 'ready|0', 'DISABLE undone by ROLLBACK TO: status');
$old->query('COMMIT');
check('DISABLE undone by ROLLBACK TO');

$out{ $b = fresh() } = 1;
$old->query(qq{
	DO \$\$ BEGIN
		BEGIN
			$disable; @{[ put(fresh()) ]}; $enable;
			PERFORM optout.accepts('$b');
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
			$disable; @{[ put($b) ]}; $enable;
		END;
	END \$\$});
check('exception in PL/pgSQL');

#
# Twice within a transaction, with look-ups in between
#
$out{ $a = fresh() } = 1;
$old->query("BEGIN; $disable");
is($old->query($status), 'not used|0', 'disabled by this transaction');
$old->query(put($a) . "; $enable");
is($old->query($discarded), expected(), 'first time');
# (the keys are added once the version is committed)
is($old->query($status), 'loading|0', 'first time: status');
$out{ $b = fresh() } = 1;
$old->query("$disable; " . put($b));
is($old->query($discarded), expected(), 'second time, disabled');
$old->query($enable);
is($old->query($discarded), expected(), 'second time');
$old->query('COMMIT');
check('twice within a transaction');

#
# Prepared transactions, without and with a crash before their end
#
for my $crash (0, 1)
{
	my $what = $crash ? 'prepared, crash' : 'prepared';

	$a = fresh();
	$node->safe_psql('postgres', "BEGIN; $disable; " . put($a) . "; $enable; PREPARE TRANSACTION 'disabled'");
	check($what);
	if ($crash)
	{
		$node->stop('immediate');
		$node->start;
		connect_sessions();
	}
	check("$what: not committed");
	$node->safe_psql('postgres', "COMMIT PREPARED 'disabled'");
	$out{$a} = 1;
	check("$what: committed");
}

#
# A trigger that does not fire always, or is not there
#
for my $fires ('ENABLE TRIGGER', 'ENABLE REPLICA TRIGGER')
{
	$node->safe_psql('postgres', "ALTER TABLE $state $fires optout_filter");
	check($fires, status => 'not used');
	for my $role ('origin', 'replica', 'local')
	{
		$out{ $a = fresh() } = 1;
		$node->safe_psql('postgres', "SET session_replication_role = $role; " . put($a));
		check("$fires, written as $role", status => 'not used');
		$node->safe_psql('postgres', "SET session_replication_role = $role; DELETE FROM $state WHERE user_id = '$a'");
		delete $out{$a};
		check("$fires, deleted as $role", status => 'not used');
	}
	$out{ $a = fresh() } = 1;
	$node->safe_psql('postgres', "SET session_replication_role = replica; " . put($a) . "; RESET session_replication_role; " . put(my $e = fresh()));
	$out{$e} = 1;
	$node->safe_psql('postgres', $enable);
	check("$fires, then ENABLE ALWAYS");
}

for my $role ('replica', 'local')
{
	$out{ $a = fresh() } = 1;
	$node->safe_psql('postgres', "SET session_replication_role = $role; " . put($a));
	check("written as $role");
	$node->safe_psql('postgres', "SET session_replication_role = $role; DELETE FROM $state WHERE user_id = '$a'");
	delete $out{$a};
	check("deleted as $role");
}

for my $gone ([ "DROP TRIGGER optout_filter ON $state", "$create; $enable" ],
	[ "ALTER TRIGGER optout_filter ON $state RENAME TO another", "ALTER TRIGGER another ON $state RENAME TO optout_filter" ])
{
	$out{ $a = fresh() } = 1;
	$node->safe_psql('postgres', $gone->[0] . '; ' . put($a));
	check($gone->[0], status => 'not used');
	$node->safe_psql('postgres', $gone->[1]);
	check("$gone->[0], and back");
	$out{ $a = fresh() } = 1;
	$node->safe_psql('postgres', "BEGIN; $gone->[0]; " . put($a) . "; $gone->[1]; COMMIT");
	check("$gone->[0], and back in one transaction");
}

# A trigger of its name that fires always, but not for everything: whether it is
# trusted or not, the answers are the same.
for my $change ([ 'INSERT OR UPDATE OR DELETE', 'DELETE' ], [ 'INSERT OR UPDATE OR DELETE', 'INSERT OR UPDATE' ],
	[ 'FOR EACH ROW', 'FOR EACH ROW WHEN (false)' ], [ 'UPDATE', 'UPDATE OF opted_in_at' ])
{
	my $altered = $create =~ s/INSERT OR DELETE OR UPDATE/INSERT OR UPDATE OR DELETE/r =~ s/\Q$change->[0]\E/$change->[1]/r;

	($a, $b, $c) = (fresh(), fresh(), fresh());
	$node->safe_psql('postgres', "DROP TRIGGER optout_filter ON $state; $altered; $enable");
	for my $sql (put($a), put($b), "UPDATE $state SET user_id = '$c' WHERE user_id = '$b'", "DELETE FROM $state WHERE user_id = '$a'")
	{
		$node->safe_psql('postgres', $sql);
		$out{$1} = 1 if $sql =~ /'(u\d+)', now/;
		if ($sql =~ /^UPDATE/) { delete $out{$b}; $out{$c} = 1 }
		delete $out{$a} if $sql =~ /^DELETE/;
		my $expected = expected();

		is($old->query($discarded), $expected, "$altered: $sql");
		is($node->safe_psql('postgres', $discarded), $expected, "$altered: $sql: new session");
	}
	$node->safe_psql('postgres', "DROP TRIGGER optout_filter ON $state; $create; $enable");
	check("$altered, and back");
}

#
# Restores of another database's opt-outs
#
$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', 'CREATE EXTENSION optout');
for my $mode ([ '--disable-triggers' ], [ '--disable-triggers', '--single-transaction' ], [])
{
	($a, $b) = (fresh(), fresh());
	$node->safe_psql('source', "TRUNCATE $state; " . put($a) . '; ' . put($b));
	$node->command_ok(
		[ 'pg_dump', '-Fc', '--data-only', '-f', "$dumps/state.dump", '-t', $state, '-e', 'optout', $node->connstr('source') ],
		'dumped');
	$node->command_ok(
		[ 'pg_restore', '--data-only', @$mode, '-t', 'opt_out_period', '-d', $node->connstr('postgres'), "$dumps/state.dump" ],
		"pg_restore @$mode");
	$out{$a} = $out{$b} = 1;

	# it leaves triggers that fire on origin only
	check("pg_restore @$mode", status => @$mode ? 'not used' : 'ready');
	$node->safe_psql('postgres', $enable);
	check("pg_restore @$mode, then ENABLE ALWAYS");
}

$_->quit for $old, $open;
$node->stop;
done_testing();
