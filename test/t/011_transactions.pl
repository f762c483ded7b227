# Filter and memo follow transactions: one's own changes with savepoints,
# rollbacks, exceptions and PREPARE TRANSACTION, and those of others, at once even
# in the middle of a transaction; prepared transactions that end after a restart;
# crashes.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {}, q{
shared_preload_libraries = 'optout'
max_prepared_transactions = 10
restart_after_crash = on
autovacuum = off
});
$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	CREATE TABLE event (user_id text, organization text);
	SELECT optout.guard('event', organization => 'organization');
	SELECT optout.enroll(array_agg('u' || n), o)
	  FROM generate_series(1, 400) n, unnest('{default,acme,bcme}'::text[]) AS o GROUP BY o});

# Of the first users, of three organizations, those who are discarded now.
sub discarded
{
	my ($upto) = @_;
	my $all = qq{(SELECT 'u' || n AS u, o FROM generate_series(1, $upto) AS n, unnest('{default,acme,bcme}'::text[]) AS o) AS s};

	return qq{
		WITH stored AS (INSERT INTO event SELECT u, o FROM $all RETURNING user_id, organization)
		SELECT concat_ws(' / ',
			string_agg(o || '.' || u, ' ' ORDER BY o, u) FILTER (WHERE NOT optout.accepts(u, o)),
			string_agg(o || '.' || u, ' ' ORDER BY o, u) FILTER (WHERE optout.is_opted_out(u, o)),
			string_agg(o || '.' || u, ' ' ORDER BY o, u) FILTER (WHERE (u, o) NOT IN (SELECT user_id, organization FROM stored)))
		  FROM $all};
}

# The same by the table.
sub by_table
{
	my ($query) = @_;
	return "SET optout.filter = off; $query; SET optout.filter = on";
}

my $status = 'SELECT shared_filter, optout.verify() FROM optout.status';

#
# Others' changes are seen at once in the middle of a transaction, where a
# statement may lock nothing that would make the session hear of them.
#
for my $isolation ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	my $session = OptoutTest::Session->new($node);
	my $admin = OptoutTest::Session->new($node);
	my $ask = q{SELECT optout.accepts('u1')};

	$session->query("PREPARE ask AS $ask; PREPARE store AS INSERT INTO event VALUES ('u1', 'default') RETURNING 'stored'");
	$session->query("BEGIN ISOLATION LEVEL $isolation; EXECUTE ask; EXECUTE store");
	is($session->query("$ask; EXECUTE ask; EXECUTE store"), "t\nt\nstored", "$isolation: before");
	for (1 .. 2)
	{
		$admin->query("BEGIN; SELECT optout.opt_out('u1')");
		is($session->query("$ask; EXECUTE ask; EXECUTE store"), "t\nt\nstored", "$isolation: not committed");
		$admin->query('COMMIT');
		is($session->query("$ask; EXECUTE ask; EXECUTE store"), "f\nf", "$isolation: opted out");
		is($session->query("$ask; EXECUTE ask; EXECUTE store"), "f\nf", "$isolation: opted out, memo");
		$admin->query("BEGIN; SELECT optout.opt_in('u1')");
		is($session->query("$ask; EXECUTE ask; EXECUTE store"), "f\nf", "$isolation: opt-in not committed");
		$admin->query('COMMIT');
		is($session->query("$ask; EXECUTE ask; EXECUTE store"), "t\nt\nstored", "$isolation: opted in");
	}
	$admin->query("SELECT optout.opt_out('u1')");
	is($session->query($ask), 'f', "$isolation: opted out again");
	$admin->query("SELECT optout.forget('u1', force => true), optout.enroll('u1')");
	is($session->query("$ask; EXECUTE store"), "t\nstored", "$isolation: forgotten");
	$session->query('COMMIT');
	$_->quit for $session, $admin;
}

# A session whose query waits for the table while somebody changes it.
{
	my $session = OptoutTest::Session->new($node);
	my $admin = OptoutTest::Session->new($node);

	$admin->query(q{SELECT optout.opt_out('u2'), optout.opt_in('u2')});
	$session->query(q{SELECT optout.accepts('u3')});
	$admin->query('BEGIN; LOCK TABLE optout.opt_out_period');
	$session->begin(q{SELECT optout.accepts('u2')});
	$session->wait_for_lock($node);
	$admin->query(q{SELECT optout.opt_out('u2'); COMMIT});
	is(($session->finish)[0], 'f', 'opted out while a look-up waits for the table');
	is($session->query(q{SELECT optout.accepts('u2')}), 'f', 'opted out while a look-up waits for the table: and remembered');
	$admin->query('BEGIN; LOCK TABLE optout.opt_out_period IN SHARE ROW EXCLUSIVE MODE');
	$admin->query(q{SELECT optout.opt_in('u2')});
	is($session->query(q{SELECT optout.accepts('u2')}), 'f', 'a look-up conflicts with no writer');
	$admin->query('COMMIT');
	is($session->query(q{SELECT optout.accepts('u2')}), 't', 'opted in again');
	$_->quit for $session, $admin;
}

#
# Own changes: many random steps.  The session itself and one that watches must
# agree with the table at each; what the watcher sees must be what was committed.
#
my $seed = $ENV{OPTOUT_TEST_SEED} // time;
note "OPTOUT_TEST_SEED=$seed";
srand $seed;

{
	my $actor = OptoutTest::Session->new($node);
	my $watcher = OptoutTest::Session->new($node);
	my $query = discarded(6);
	my $in_transaction = 0;
	my @savepoints;
	my @prepared;
	my $wrong = 0;
	my @history;

	$watcher->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	for my $step (1 .. 250)
	{
		my $user = 'u' . (1 + int rand 6);
		my $org = (qw(default acme bcme))[ rand 3 ];
		my $call = (
			"optout.opt_out('$user', '$org')", "optout.opt_out('$user', '$org')",
			"optout.opt_in('$user', '$org')",
			"optout.forget('$user', '$org', force => true), optout.enroll('$user', '$org')")[ rand 4 ];
		my $sql = "SELECT $call";
		my $choice = int rand 12;

		if ($choice == 0)
		{
			$sql = "DO 'BEGIN PERFORM $call; PERFORM optout.accepts(''$user'', ''$org''); RAISE division_by_zero;"
			  . " EXCEPTION WHEN division_by_zero THEN NULL; END'";
			$sql =~ s/PERFORM optout\.(opt_out|opt_in)\('(\w+)', '(\w+)'\)/PERFORM optout.$1(''$2'', ''$3'')/;
			$sql =~ s/PERFORM optout\.forget\('(\w+)', '(\w+)'.*?enroll\('\w+', '\w+'\)/PERFORM optout.forget(''$1'', ''$2'', force => true)/;
		}
		elsif ($choice == 1)
		{
			$sql = qq{DELETE FROM optout.opt_out_period} if rand() < 0.2 && !@prepared && !$in_transaction;
		}
		elsif (!$in_transaction)
		{
			if ($choice < 6)
			{
				$sql = 'BEGIN';
				$in_transaction = 1;
			}
			elsif ($choice == 6 && @prepared)
			{
				$sql = (rand() < 0.7 ? 'COMMIT' : 'ROLLBACK') . ' PREPARED ' . "'" . shift(@prepared) . "'";
			}
		}
		elsif ($choice == 2)
		{
			push @savepoints, "s$step";
			$sql = "SAVEPOINT s$step";
		}
		elsif ($choice == 3 && @savepoints)
		{
			splice @savepoints, 1 + int rand @savepoints;
			$sql = "ROLLBACK TO $savepoints[-1]";
		}
		elsif ($choice == 4 && @savepoints)
		{
			$sql = 'RELEASE ' . pop @savepoints;
		}
		elsif ($choice >= 10)
		{
			$sql = (qw(COMMIT COMMIT ROLLBACK PREPARE))[ rand 4 ];
			if ($sql eq 'PREPARE')
			{
				$sql = "PREPARE TRANSACTION 'p$step'";
				push @prepared, "p$step";
			}
			$in_transaction = 0;
			@savepoints = ();
		}

		# whoever has prepared something holds its users' rows
		my ($out, $err);
		if (@prepared && $sql =~ /optout\./)
		{
			$sql = "SET lock_timeout = '1ms'; SAVEPOINT lock_or_not; $sql" if $in_transaction;
			$sql = "SET lock_timeout = '1ms'; $sql" unless $in_transaction;
			$actor->begin($sql);
			($out, $err) = $actor->finish;
			$actor->query($err =~ /ERROR/ ? 'ROLLBACK TO lock_or_not; RELEASE lock_or_not' : 'RELEASE lock_or_not')
			  if $in_transaction;
			$actor->query('SET lock_timeout = 0');
			die "$sql: $err" if $err =~ /ERROR/ && $err !~ /55P03/;
		}
		else
		{
			$actor->query($sql);
		}
		push @history, $sql;

		for my $session ($actor, $watcher)
		{
			my $who = $session == $actor ? 'own session' : 'watching session';
			my $answers = $session->query("$query; $query");
			my $table = $session->query(by_table("$query; $query"));

			next if $answers eq $table;
			$wrong++;
			diag "after \"$sql\" (step $step), $who: filter and memo say\n$answers\nthe table says\n$table";
			diag 'history: ' . join('; ', @history);
		}
		last if $wrong;

		# now and then another transaction
		$watcher->query('COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ') if rand() < 0.1;
	}
	is($wrong, 0, 'random steps');
	is($watcher->query($status), 'ready|0', 'random steps: status');
	$actor->query('ROLLBACK') if $in_transaction;
	$watcher->query('COMMIT');
	$_->quit for $actor, $watcher;
	$node->safe_psql('postgres', "ROLLBACK PREPARED '$_'") for @prepared;
}
$node->safe_psql('postgres', q{
	TRUNCATE optout.opt_out_period, event;
	SELECT optout.enroll(array_agg('u' || n), o)
	  FROM generate_series(1, 400) n, unnest('{default,acme,bcme}'::text[]) AS o GROUP BY o});

#
# TRUNCATE within a transaction gives the table no new file the second time.
#
is( $node->safe_psql('postgres', q{
		BEGIN; TRUNCATE optout.opt_out_period; SELECT optout.opt_out('u1');
		SELECT optout.accepts('u1'), optout.accepts('u1');
		TRUNCATE optout.opt_out_period;
		SELECT optout.accepts('u1'), optout.accepts('u1'); ROLLBACK}),
	"t\nf|f\nt|t", 'TRUNCATE twice in a transaction');

#
# Organizations do not share users, even where their names are of one length.
#
{
	my $session = OptoutTest::Session->new($node);

	$node->safe_psql('postgres', q{SELECT optout.opt_out('u10', 'acme'), optout.opt_out('u11', 'bcme')});
	is( $session->query(q{
			SELECT u, string_agg(optout.accepts(u, o)::text, ' ' ORDER BY o) FROM unnest('{u10,u11}'::text[]) AS u,
				unnest('{acme,bcme,default}'::text[]) AS o, generate_series(1, 2) GROUP BY u ORDER BY u}),
		"u10|false false true true true true\nu11|true true false false true true", 'organizations');
	is( $session->query(q{
			SELECT string_agg(optout.accepts('u10', o)::text, ' ' ORDER BY n)
			  FROM unnest('{acme,bcme,acme,default,acme,bcme}'::text[]) WITH ORDINALITY AS s (o, n)}),
		'false true false true false true', 'organizations by turns');

	# what another organization has is not even looked up
	my $count = q{SELECT lookups_filter, lookups_memo, lookups_table FROM optout.status};
	my @before = split /\|/, $session->query($count);
	$session->query(q{SELECT optout.accepts('u10', 'bcme'), optout.accepts('u11', 'acme'), optout.accepts('u11')});
	my @after = split /\|/, $session->query($count);
	is(join(' ', map { $after[$_] - $before[$_] } 0 .. 2), '3 0 0', 'the filter knows organizations apart');
	$session->quit;
}

#
# Prepared transactions over restarts, and crashes
#
my %out;
my $next = 100;
my @sessions;

sub connect_sessions
{
	$_->quit for @sessions;
	@sessions = map { OptoutTest::Session->new($node) } 1 .. 2;
	$sessions[1]->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	for my $session (@sessions)
	{
		$session->query(discarded(200)) for 1 .. 2;
	}
}

sub check
{
	my ($what) = @_;
	my $list = join ' ', sort keys %out;
	my $expected = "$list / $list / $list";

	is($node->safe_psql('postgres', by_table(discarded(200))), $expected, "$what: table");
	is($sessions[0]->query(discarded(200)), $expected, "$what: old session");
	is($sessions[1]->query(discarded(200)), $expected, "$what: old session, in a transaction");
	is($node->safe_psql('postgres', discarded(200)), $expected, "$what: new session");
	is($sessions[0]->query($status), 'ready|0', "$what: status");
}

$node->safe_psql('postgres', 'TRUNCATE optout.opt_out_period');
connect_sessions();
for my $how ('restart', 'immediate')
{
	my ($kept, $out, $in) = map { 'u' . ++$next } 1 .. 3;

	$node->safe_psql('postgres', "SELECT optout.opt_out(ARRAY['$kept', '$in'])");
	$out{"default.$kept"} = $out{"default.$in"} = 1;
	$node->safe_psql('postgres', "BEGIN; SELECT optout.opt_out('$out'); PREPARE TRANSACTION 'out'");
	$node->safe_psql('postgres', "BEGIN; SELECT optout.opt_in('$in'); PREPARE TRANSACTION 'in'");
	$node->safe_psql('postgres', "BEGIN; SELECT optout.opt_out('u" . ++$next . "', 'acme'); PREPARE TRANSACTION 'undone'");
	my ($sub_out, $sub_undone) = map { 'u' . ++$next } 1 .. 2;
	$node->safe_psql('postgres', qq{
		BEGIN; SAVEPOINT s; SELECT optout.opt_out('$sub_undone'); ROLLBACK TO s;
		SAVEPOINT t; SELECT optout.opt_out('$sub_out'); RELEASE t; PREPARE TRANSACTION 'sub'});
	check("$how: prepared");

	my $uncommitted = OptoutTest::Session->new($node);
	$uncommitted->query("BEGIN; SELECT optout.opt_out('u" . ++$next . "'), optout.opt_in('$kept')");
	$node->safe_psql('postgres', 'CHECKPOINT');
	if ($how eq 'restart') { $node->restart }
	else { $node->stop('immediate'); $node->start }
	$uncommitted->quit;
	connect_sessions();
	check("$how: not committed");
	$node->safe_psql('postgres', "COMMIT PREPARED 'out'");
	$out{"default.$out"} = 1;
	check("$how: opt-out committed");
	$node->safe_psql('postgres', "COMMIT PREPARED 'in'");
	delete $out{"default.$in"};
	check("$how: opt-in committed");
	$node->safe_psql('postgres', "COMMIT PREPARED 'sub'");
	$out{"default.$sub_out"} = 1;
	check("$how: opt-out of a subtransaction committed");
	$node->safe_psql('postgres', "ROLLBACK PREPARED 'undone'");
	check("$how: rolled back");
}

# kill -9 of a backend: new shared memory, with another secret
for my $round (1 .. 2)
{
	my $victim = OptoutTest::Session->new($node);
	my $user = 'u' . ++$next;
	my $prepared = 'u' . ++$next;

	$node->safe_psql('postgres', "BEGIN; SELECT optout.opt_out('$prepared'); PREPARE TRANSACTION 'out'");
	$victim->query("SELECT optout.opt_out('$user'); BEGIN; SELECT optout.opt_out('u" . ++$next . "')");
	$out{"default.$user"} = 1;
	my $log_offset = -s $node->logfile;
	system_or_bail('pg_ctl', 'kill', 'KILL', $victim->pid);
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $log_offset);
	$node->poll_query_until('postgres', 'SELECT true') or die 'server does not come back';
	$victim->quit;
	connect_sessions();
	check("kill -9, round $round");
	$node->safe_psql('postgres', "COMMIT PREPARED 'out'");
	$out{"default.$prepared"} = 1;
	check("kill -9, round $round: prepared opt-out committed");
	$node->safe_psql('postgres', "SELECT optout.opt_out('u" . ++$next . "')");
	$out{"default.u$next"} = 1;
	check("kill -9, round $round: opted out after it");
}

# a first look-up that fails has loaded nothing
{
	my ($user) = 'u' . ++$next;

	$node->safe_psql('postgres', "SELECT optout.opt_out('$user')");
	$out{"default.$user"} = 1;
	$node->restart;
	my $locker = OptoutTest::Session->new($node);
	$locker->query('BEGIN; LOCK TABLE optout.opt_out_period');
	like(errors_of($node, "SET lock_timeout = '1ms'; SELECT optout.accepts('$user')"),
		qr/ERROR:  55P03/, 'first look-up fails');
	$locker->query('ROLLBACK');
	$locker->quit;
	connect_sessions();
	check('after a first look-up that failed');
}

$_->quit for @sessions;
$node->stop;
done_testing();
