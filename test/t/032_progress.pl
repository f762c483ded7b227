# How far long commands have come: optout.progress and optout.status while they run,
# messages in the server's log, and nothing left of those that were cancelled, ended
# or failed.  What is to be seen is held still by locks.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nautovacuum = off\nlog_startup_progress_interval = 1\n");
my $nusers = 4000;

$node->safe_psql('postgres', qq{
	CREATE EXTENSION optout;
	CREATE ROLE nobody;
	CREATE FUNCTION ids(initial text, upto int DEFAULT $nusers) RETURNS text[] LANGUAGE sql
		AS \$\$ SELECT array_agg(initial || lpad(n::text, 5, '0')) FROM generate_series(1, upto) AS n \$\$});

# What others see.
my $watcher = OptoutTest::Session->new($node);
$watcher->query('SET ROLE nobody');
my $progress = 'SELECT * FROM optout.progress';

# The tables, in short.
my $state = q{
	SELECT (SELECT md5(string_agg(p::text, ' ' ORDER BY p::text)) FROM optout.opt_out_period AS p),
		   (SELECT md5(string_agg(u::text, ' ' ORDER BY u::text)) FROM optout.product_user AS u)};

sub restart
{
	my ($settings) = @_;

	$watcher->quit;
	$node->append_conf('postgresql.conf', $settings) if defined $settings;
	$node->restart;
	$watcher = OptoutTest::Session->new($node);
	$watcher->query('SET ROLE nobody');
}

#
# Administration.  At two users each command meets somebody who keeps it waiting: at
# their rows, or in triggers that wait for a lock of theirs.
#
my @stops = ($nusers / 4, $nusers * 3 / 4);
my $stops = join('|', map { sprintf('%05d', $_) } @stops);
my %holders = map { $_ => OptoutTest::Session->new($node) } @stops;
my $before = 100000;
my $after = 200000;
my $before_alias = 300000;

$node->safe_psql('postgres', q{
	CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_advisory_xact_lock_shared(TG_ARGV[0]::int + substr((CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END).user_id, 2)::int);
		RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
	END $$});
for my $gate ([ 'BEFORE', $before, 'product_user' ], [ 'BEFORE', $before, 'opt_out_period' ], [ 'BEFORE', $before_alias, 'user_alias' ], [ 'AFTER', $after, 'opt_out_period' ])
{
	my ($when, $key, $table) = @$gate;

	# after the extension's own, by their names
	for my $event ('INSERT', 'UPDATE', 'DELETE')
	{
		my $row = $event eq 'DELETE' ? 'OLD' : 'NEW';

		$node->safe_psql('postgres', qq{
			CREATE TRIGGER z_${when}_$event $when $event ON optout.$table FOR EACH ROW
				WHEN ($row.user_id ~ '$stops') EXECUTE FUNCTION gate($key)});
	}
}
my %hold = (
	'locking users' => q{SELECT FROM optout.product_user WHERE user_id = 'u%05d' FOR UPDATE},
	'locking periods' => q{SELECT FROM optout.opt_out_period WHERE user_id = 'u%05d' FOR UPDATE},
	'locking open periods' => q{SELECT FROM optout.opt_out_period WHERE user_id = 'u%05d' FOR UPDATE},
	'locking aliases' => q{SELECT FROM optout.user_alias WHERE user_id = 'u%05d' FOR UPDATE},
	'writing aliases' => "SELECT pg_advisory_xact_lock($before_alias + %d)",
	'writing users' => "SELECT pg_advisory_xact_lock($before + %d)",
	'writing periods' => "SELECT pg_advisory_xact_lock($before + %d)",
	'deleting' => "SELECT pg_advisory_xact_lock($before + %d)",
	'updating the filter' => "SELECT pg_advisory_xact_lock($after + %d)",
);

# What they log, where something can be counted.
my %logged = (
	'locking users' => 'users locked',
	'locking periods' => "users' periods locked",
	'locking open periods' => "users' open periods locked",
	'locking aliases' => 'aliases locked',
	'updating the filter' => 'periods made known to the filter',
);

# At which of the two users does the session wait?
sub stopped_at
{
	my ($session, @of) = @_;
	my $pids = join(',', map { $holders{$_}->pid } @of);
	my $query = 'SELECT pg_blocking_pids(' . $session->pid . ')';

	$node->poll_query_until('postgres', "$query && ARRAY[$pids]") or die 'does not stop';
	my $blocking = $node->safe_psql('postgres', "$query");
	my ($at) = grep { $blocking =~ /\b\Q@{[$holders{$_}->pid]}\E\b/ } @of;
	return $at;
}

# Compare what is shown with: command, phase, and how much is done of how much.
sub check_shown
{
	my ($session, $command, $phase, $at, $total, $more_than, $what) = @_;
	my ($pid, @shown) = split /\|/, $watcher->query($progress);
	my $done = $phase =~ /^locking/ ? $at - 1 : 0;

	if ($phase eq 'updating the filter')
	{
		$done = $shown[2];
		cmp_ok($done, '>', $more_than, "$what: counts");
		cmp_ok($done, '<=', $total, "$what: no more than there are");
	}
	is_deeply([ $pid, @shown ], [ $session->pid, $command, $phase, $done, $total ], "$what: shown");
	return $done;
}

# Have a command wait in a phase, twice, and then go on, or be cancelled or ended.
# Returns what it returns.
sub run
{
	my ($sql, $command, $phase, $total, $end) = @_;
	my $what = "$command, $phase, $end";
	my $session = OptoutTest::Session->new($node);
	my $state_before = $node->safe_psql('postgres', $state);
	my $log_before = -s $node->logfile;

	$holders{$_}->query('BEGIN; ' . sprintf($hold{$phase}, $_)) for @stops;
	$session->begin($sql);
	my $first = stopped_at($session, @stops);
	my $done = check_shown($session, $command, $phase, $first, $total, 0, "$what, first");
	my ($second) = grep { $_ != $first } @stops;
	$holders{$first}->query('ROLLBACK');
	stopped_at($session, $second);
	check_shown($session, $command, $phase, $second, $total, $done, "$what, second");
	is($node->safe_psql('other', $progress), '', "$what: not shown in another database");

	my ($out, $err);
	if ($end eq 'goes on')
	{
		$holders{$second}->query('ROLLBACK');
		($out, $err) = $session->finish;
		is($err, '', "$what: no error");
	}
	elsif ($end eq 'cancelled')
	{
		$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $session->pid . ')');
		($out, $err) = $session->finish;
		like($err, qr/ERROR:  57014/, "$what: fails");
	}
	else
	{
		$node->safe_psql('postgres', 'SELECT pg_terminate_backend(' . $session->pid . ')');
		$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = ' . $session->pid)
		  or die 'does not end';
	}
	is($watcher->query($progress), '', "$what: shown no more");
	$holders{$second}->query('ROLLBACK') if $end ne 'goes on';
	is($node->safe_psql('postgres', $state), $state_before, "$what: nothing has changed") if $end ne 'goes on';
	$session->quit;

	my $log = slurp_file($node->logfile, $log_before);
	if (defined $logged{$phase})
	{
		my %doing = ('enroll' => 'enrolling', 'opt out' => 'opting out', 'opt in' => 'opting in', 'forget' => 'forgetting', 'link' => 'linking', 'unlink' => 'unlinking');
		like($log, qr/LOG:  optout: $doing{$command}, \d+ of $total \Q$logged{$phase}\E, elapsed time: \d+\.\d\d s$/m, "$what: logged");
	}
	return $out;
}

# All the phases of a command; the first two are held up in passing.
sub check_command
{
	my ($sql, $command, $result, @phases) = @_;

	for my $i (0 .. $#phases)
	{
		my ($phase, $total) = @{ $phases[$i] };

		run($sql, $command, $phase, $total, $_) for 'cancelled', 'ended';
	}
	is(run($sql, $command, @{ $phases[-1] }, 'goes on'), $result, "$command: done");
}

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION optout');

check_command(q{SELECT optout.enroll(ids('u'))}, 'enroll', '', [ 'writing users', $nusers ]);
check_command(q{SELECT optout.opt_out(ids('u'))}, 'opt out', $nusers,
	[ 'locking users', $nusers ], [ 'writing periods', $nusers ], [ 'updating the filter', $nusers ]);
check_command(q{SELECT optout.link(ids('u'), ids('v'))}, 'link', $nusers,
	[ 'locking users', $nusers ], [ 'locking periods', $nusers ], [ 'writing aliases', $nusers ],
	[ 'writing periods', $nusers ], [ 'updating the filter', $nusers ]);
check_command(q{SELECT optout.unlink(ids('v'), force => true)}, 'unlink', $nusers,
	[ 'locking users', $nusers ], [ 'locking periods', $nusers ], [ 'locking aliases', $nusers ],
	[ 'deleting', $nusers ], [ 'updating the filter', $nusers ]);
check_command(q{SELECT optout.opt_in(ids('u'))}, 'opt in', $nusers,
	[ 'locking users', $nusers ], [ 'locking open periods', $nusers ],
	[ 'writing periods', $nusers ], [ 'updating the filter', $nusers ]);

# more periods than users, and half of these out again
$node->safe_psql('postgres', qq{SELECT optout.opt_out(ids('u', $nusers / 2))});
my $nperiods = $nusers + $nusers / 2;
check_command(q{SELECT optout.forget(ids('u'), force => true)}, 'forget', $nusers,
	[ 'locking users', $nusers ], [ 'locking periods', $nusers ],
	[ 'deleting', $nperiods ], [ 'updating the filter', $nperiods ]);
is($node->safe_psql('postgres', 'SELECT count(*) FROM optout.product_user, optout.opt_out_period'), '0', 'all forgotten');

#
# The log names nobody, though the statement does, and says nothing unless asked to.
#
$node->safe_psql('postgres', q{SELECT optout.enroll(ids('u'))});
my $all = $node->safe_psql('postgres', q{SELECT ids('u')});
my $log_before = -s $node->logfile;
$node->safe_psql('postgres', "SET log_statement = none; SELECT optout.opt_out('$all'::text[])");
my $log = slurp_file($node->logfile, $log_before);
like($log, qr/optout: opting out, 0 of $nusers periods made known to the filter, elapsed/, 'a phase is logged as it begins');
unlike($log, qr/u00001/, 'names nobody');
$node->safe_psql('postgres', 'ALTER SYSTEM SET log_startup_progress_interval = 0');
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('log_startup_progress_interval') = '0'}) or die;
$log_before = -s $node->logfile;
$node->safe_psql('postgres', q{SELECT optout.opt_in(ids('u'))});
unlike(slurp_file($node->logfile, $log_before), qr/optout: /, 'log_startup_progress_interval = 0');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET log_startup_progress_interval');
$node->reload;

#
# Errors that are caught, commands within commands, and few users.
#
my $session = OptoutTest::Session->new($node);
my $own = q{SELECT command, phase, done, total FROM optout.progress WHERE pid = pg_backend_pid() ORDER BY command};

$session->query(q{
	CREATE TABLE seen (n int GENERATED ALWAYS AS IDENTITY, what text);
	CREATE FUNCTION see(moment text) RETURNS void LANGUAGE sql SET search_path = public AS $$
		SELECT pg_stat_clear_snapshot();
		INSERT INTO seen (what) SELECT concat_ws(': ', moment, string_agg(concat_ws(' ', command, phase, done, total), ', ' ORDER BY command))
		  FROM optout.progress WHERE pid = pg_backend_pid() $$});

sub seen
{
	return $session->query(q{SELECT string_agg(what, '; ' ORDER BY n) FROM seen; TRUNCATE seen});
}

$session->query(q{
	BEGIN;
	DO $$ BEGIN
		PERFORM optout.opt_out(ids('u') || '{x}'::text[]);
	EXCEPTION WHEN undefined_object THEN
		PERFORM see('caught');
	END $$});
is($watcher->query($progress), '', 'error in a block: shown no more');
is(seen(), 'caught', 'nor in the block');
like($session->query_fails(q{SAVEPOINT s; SELECT optout.opt_out(ids('u') || '{x}'::text[])}), qr/ERROR:  42704/, 'error after a savepoint');
is($watcher->query($progress), '', 'error after a savepoint: shown no more');
is($session->query(q{ROLLBACK TO s; SELECT optout.opt_out(ids('u'))}), $nusers, 'the transaction goes on');
$session->query('ROLLBACK');

# A trigger that calls: the inner command is shown instead, if it is about many.
$session->query(q{
	CREATE FUNCTION nest() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
	BEGIN
		PERFORM see('outer');
		PERFORM optout.enroll(ids('w', 999));
		PERFORM see('few');
		PERFORM optout.enroll(ids('v'));
		PERFORM see('done');
		BEGIN
			PERFORM optout.opt_in(ids('u') || '{x}'::text[]);
		EXCEPTION WHEN undefined_object THEN
			PERFORM see('caught');
		END;
		RETURN NEW;
	END $$;
	CREATE TRIGGER nest BEFORE INSERT ON optout.opt_out_period FOR EACH ROW WHEN (NEW.user_id = 'u00007') EXECUTE FUNCTION nest();
	CREATE FUNCTION see_inner() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$ BEGIN PERFORM see('inner'); RETURN NEW; END $$;
	CREATE TRIGGER inner_one BEFORE INSERT ON optout.product_user FOR EACH ROW WHEN (NEW.user_id ~ '[vw]00007') EXECUTE FUNCTION see_inner()});
is($session->query(q{SELECT optout.opt_out(ids('u'))}), $nusers, 'a command within another: done');
my $outer = "opt out writing periods 0 $nusers";
is(seen(), "outer: $outer; inner: $outer; few: $outer; inner: enroll writing users 0 $nusers; done; caught",
	'a command within another: shown instead');
is($watcher->query($progress), '', 'shown no more');

# Within a command of the server's, that is what is shown.
$session->query(q{
	DROP TRIGGER nest ON optout.opt_out_period;
	CREATE FUNCTION see_copy() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
	BEGIN
		PERFORM see('in a COPY');
		INSERT INTO seen (what) SELECT command || ' ' || tuples_processed FROM pg_stat_progress_copy WHERE pid = pg_backend_pid();
		RETURN NEW;
	END $$;
	CREATE TRIGGER see_copy BEFORE UPDATE ON optout.opt_out_period FOR EACH ROW WHEN (NEW.user_id = 'u00007') EXECUTE FUNCTION see_copy()});
$session->query(q{COPY (SELECT optout.opt_in(ids('u'))) TO '/dev/null'});
is(seen(), 'in a COPY; COPY TO 0', 'within a COPY: not shown');
$session->query('DROP TRIGGER see_copy ON optout.opt_out_period');

# And where activities are not tracked, nothing is.
$session->query(q{
	CREATE TRIGGER see_off BEFORE INSERT ON optout.opt_out_period FOR EACH ROW WHEN (NEW.user_id = 'u00007') EXECUTE FUNCTION see_inner();
	SET track_activities = off});
is($session->query(q{SELECT optout.opt_out(ids('u'))}), $nusers, 'track_activities = off: done');
is(seen(), 'inner', 'track_activities = off: not shown');
$session->query('DROP TRIGGER see_off ON optout.opt_out_period');
$session->quit;

#
# The adding of keys after a start, with which two sessions that begin at the same
# moment go on in turns.
#
$node->safe_psql('postgres', q{
	INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by)
		SELECT 'many', 'u' || n, now(), 'x' FROM generate_series(1, 300000) n});
my $watch = q{
	CREATE TEMP TABLE seen (state text, share float8, pid int, command text, phase text, done bigint, total bigint, discarded bool);
	SELECT pg_advisory_lock_shared(1);
	DO $$ DECLARE
		status record;
	BEGIN
		LOOP
			SELECT * INTO status FROM optout.status LEFT JOIN optout.progress ON true;
			INSERT INTO seen VALUES (status.shared_filter, status.load_progress, status.pid, status.command, status.phase, status.done, status.total,
				NOT optout.accepts('u300000', 'many'));
			EXIT WHEN status.shared_filter = 'ready';
		END LOOP;
	END $$;
	SELECT count(*) FILTER (WHERE state = 'loading' AND share BETWEEN 0 AND 1),
		   count(*) FILTER (WHERE command = 'add keys'),
		   count(*) FILTER (WHERE state <> 'loading' AND share IS NOT NULL)
		   + count(*) FILTER (WHERE NOT discarded)
		   + count(*) FILTER (WHERE command <> 'add keys' OR phase <> 'reading the table' OR done NOT BETWEEN 0 AND total
							  OR total <> pg_relation_size('optout.opt_out_period') / current_setting('block_size')::int),
		   max(share) > min(share), max(done) > min(done)
	  FROM seen};
my ($shares, $rows, $wrong, $shares_grow, $rows_grow) = (0) x 5;

for my $round (1 .. 20)
{
	restart();
	my $gate = OptoutTest::Session->new($node);
	my @watchers = map { OptoutTest::Session->new($node) } 1 .. 2;

	$gate->query('SELECT pg_advisory_lock(1)');
	$_->begin($watch) for @watchers;
	$_->wait_for_lock($node) for @watchers;
	$gate->query('SELECT pg_advisory_unlock(1)');
	for my $watcher (@watchers)
	{
		my ($out, $err) = $watcher->finish;
		my @found = $out =~ /^(\d+)\|(\d+)\|(\d+)\|(\w?)\|(\w?)$/m or die "$out$err";

		$shares += $found[0];
		$rows += $found[1];
		$wrong += $found[2];
		$shares_grow++ if $found[3] eq 't';
		$rows_grow++ if $found[4] eq 't';
	}
	$_->quit for $gate, @watchers;
	last if $shares_grow && $rows_grow;
}
cmp_ok($shares, '>', 0, 'adding keys: seen in optout.status');
cmp_ok($shares_grow, '>', 0, 'adding keys: goes on there');
cmp_ok($rows, '>', 0, 'adding keys: seen in optout.progress');
cmp_ok($rows_grow, '>', 0, 'adding keys: goes on there, too');
is($wrong, 0, 'adding keys: nothing else is seen, and answers are right all the time');
is($node->safe_psql('postgres', 'SELECT shared_filter, load_progress IS NULL, optout.verify() FROM optout.status'), 'ready|t|0', 'adding keys: ready');
is($node->safe_psql('postgres', $progress), '', 'adding keys: shown no more');

# Cancelled as soon as it is seen.
my $cancelled = 0;
for my $round (1 .. 20)
{
	restart();
	my ($gate, $adder, $canceller) = map { OptoutTest::Session->new($node) } 1 .. 3;
	my $adder_pid = $adder->pid;

	$gate->query('SELECT pg_advisory_lock(1)');
	$adder->begin(q{DO $$ BEGIN PERFORM pg_advisory_lock_shared(1); PERFORM optout.accepts('u1'); END $$});
	$canceller->begin(qq{
		DO \$\$ BEGIN
			PERFORM pg_advisory_lock_shared(1);
			WHILE (SELECT state = 'active' FROM pg_stat_activity WHERE pid = $adder_pid) LOOP
				PERFORM pg_cancel_backend(pid) FROM optout.progress;
				EXIT WHEN FOUND;
				PERFORM pg_stat_clear_snapshot();
			END LOOP;
		END \$\$});
	$_->wait_for_lock($node) for $adder, $canceller;
	$gate->query('SELECT pg_advisory_unlock(1)');
	$canceller->finish;
	my (undef, $err) = $adder->finish;
	$cancelled = $err =~ /ERROR:  57014/;
	is($watcher->query($progress), $watcher->query($progress), "adding keys, round $round: stays where it is");
	wait_until_ready($adder);
	is($watcher->query($progress), '', "adding keys, round $round: shown no more");
	is($adder->query('SELECT shared_filter, load_progress IS NULL, optout.verify() FROM optout.status'), 'ready|t|0', "adding keys, round $round: taken up again");
	$_->quit for $gate, $adder, $canceller;
	last if $cancelled;
}
ok($cancelled, 'adding keys: cancelled on the way');

#
# Without preloading and without a filter just as well.
#
for my $setting ("shared_preload_libraries = ''", 'optout.filter_memory = 0')
{
	$_->quit for values %holders;
	restart("$setting\n");
	$holders{$_} = OptoutTest::Session->new($node) for @stops;
	is(run(q{SELECT optout.opt_out(ids('u'))}, 'opt out', 'locking users', $nusers, 'goes on'), '0', "$setting: done");
}

$node->stop;
done_testing();
