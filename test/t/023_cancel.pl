# Statements that are cancelled or run into a timeout at chosen moments: as they
# wait for a row, for the ledger's lock at the commit, or for the catalog, and in
# the adding of keys of rows that the filter has not seen yet; and at random ones.
# What was not acknowledged has left no trace, what is asked next, in the same
# session and in others, is answered right, and what was interrupted half way is
# taken up again.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutLoad;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('main', {}, q{
shared_preload_libraries = 'optout'
max_prepared_transactions = 5
autovacuum = off
});
my $seed = $ENV{OPTOUT_SEED} // int(rand(2**31));
srand($seed);
note("OPTOUT_SEED=$seed");

# so many statements of each kind are to be cancelled
my $rounds = OptoutLoad::rounds(6);

my $interrupted = qr/ERROR:  57014: canceling statement due to (user request|statement timeout)/;

# Large enough that reading all of it takes a while: every other one is opted out,
# the others were, in the year 2000.
my $nrows = 60_000;
my $was_out = q{'2000-07-01 00:00:00+00'::timestamptz};

$node->safe_psql('postgres', qq{
	CREATE EXTENSION optout;
	ALTER TABLE optout.opt_out_period DISABLE TRIGGER optout_filter;
	INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_in_at, opted_out_by, opted_in_by)
		SELECT 'default', 'r' || n, '2000-01-01 00:00:00+00',
			   CASE WHEN n % 2 = 0 THEN '2001-01-01 00:00:00+00'::timestamptz END, 'x', CASE WHEN n % 2 = 0 THEN 'x' END
		  FROM generate_series(1, $nrows) n;
	ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter;
	VACUUM ANALYZE optout.opt_out_period;
	CREATE TABLE event (batch int, user_id text);
	CREATE TABLE guarded (batch int, user_id text);
	SELECT optout.guard('guarded')});

my $canceller = OptoutTest::Session->new($node);

# The statement that takes a short timeout back may run into it itself.
sub no_timeout
{
	my ($session, $timeout) = @_;
	my $err;

	do
	{
		$session->begin("RESET $timeout");
		(undef, $err) = $session->finish;
	} while ($err =~ $interrupted);
}

# Run a statement, and have it interrupted after so many seconds, in one of two
# ways.  Returns whether it was.
sub interrupt
{
	my ($session, $sql, $delay) = @_;
	my ($out, $err);

	if (rand() < 0.5)
	{
		my $timeout = 1 + int(1000 * $delay);

		$session->query("SET statement_timeout = $timeout");
		$session->begin($sql);
		($out, $err) = $session->finish;
		no_timeout($session, 'statement_timeout');
	}
	else
	{
		$session->begin($sql);
		$canceller->query("SELECT pg_sleep($delay), pg_cancel_backend(" . $session->pid . ')');
		($out, $err) = $session->finish;
	}
	return 1 if $err =~ $interrupted;
	die "\"$sql\": $err" if $err ne '';
	return 0;
}

# The same, again and again, until it has been interrupted often enough.  Before
# each $prepare is called, after it $check with whether it was interrupted.
# The statement is executed on its own first, to learn how long it takes; not the
# first time, for that may have to load something.
sub interrupt_often
{
	my ($what, %params) = @_;
	my ($prepare, $check) = ($params{prepare} // sub { }, $params{check});
	my $sql = ref $params{sql} ? $params{sql} : sub { $params{sql} };
	my ($cancelled, $done, $failed) = (0, 0, 0);

	my ($session, $duration);
	for (1 .. 2)
	{
		$session->quit if defined $session;
		$prepare->();
		$session = $params{session}->();
		my $statement = $sql->();
		my $start = time;
		$session->query($statement);
		$duration = time - $start;
		$failed++ unless $check->($session, 0);
	}

	while ($cancelled < $rounds)
	{
		$session->quit, $session = $params{session}->() if $params{anew};
		$prepare->();
		my $was = interrupt($session, $sql->(), rand($duration));
		$was ? $cancelled++ : $done++;
		$failed++ unless $check->($session, $was);

		# where it is done sooner than it was the first time
		$duration *= 0.9 unless $was;
	}
	$session->quit;
	is($failed, 0, "$what ($cancelled cancelled, $done done)");
}

sub session
{
	my ($settings) = @_;
	my $session = OptoutTest::Session->new($node);

	$session->query($settings) if defined $settings;
	return $session;
}

# Some users all over the large table, by what filter and table say of them, now
# and then: the first and the last rows of it are among them.
my $sample = qq{(SELECT 'r' || n AS u FROM generate_series(1, $nrows, 97) n
	UNION SELECT 'r' || n FROM generate_series($nrows - 20, $nrows) n UNION SELECT 'r0') AS sample};
my $answers = qq{
	SELECT count(*) FILTER (WHERE NOT optout.accepts(u)), count(*) FILTER (WHERE NOT optout.accepts(u, NULL, $was_out)),
		   count(*) FILTER (WHERE optout.is_opted_out(u, NULL, $was_out))
	  FROM $sample};
my $answers_of_table = $node->safe_psql('postgres', "SET optout.filter = off; $answers");

sub right
{
	my ($session, $what) = @_;
	my $ask = "$answers; SELECT shared_filter, optout.verify() FROM optout.status";
	my ($old, $new) = ($session->query($ask), $node->safe_psql('postgres', $ask));
	my $expected = "$answers_of_table\nready|0";

	return 1 if $old eq $expected && $new eq $expected;
	diag("$what: expected $expected, same session $old, new session $new");
	return 0;
}

#
# Administration of many at once: all of them or none, and nothing in between.
#
{
	my $n = 1500;
	my $users = "(SELECT array_agg('a' || n) FROM generate_series(1, $n) n)";
	my $watcher = OptoutTest::Session->new($node);
	my ($out, $there, $what) = (0, 1, '');
	my $state = q{
		SELECT (SELECT count(*) FROM optout.opt_out_list WHERE user_id LIKE 'a%'),
			   (SELECT count(*) FROM optout.product_user WHERE user_id LIKE 'a%'),
			   (SELECT count(*) FROM generate_series(1, %d) n WHERE NOT optout.accepts('a' || n)),
			   (SELECT count(*) FILTER (WHERE overlapping)
				  FROM (SELECT opted_out_at < lag(coalesce(opted_in_at, 'infinity')) OVER (PARTITION BY user_id ORDER BY opted_out_at) AS overlapping
						  FROM optout.opt_out_history WHERE user_id LIKE 'a%') AS period);
		SELECT optout.verify()};
	$state =~ s/%d/$n/;

	$node->safe_psql('postgres', "SELECT optout.enroll($users)");
	interrupt_often(
		'opt_out(), opt_in(), forget() and enroll() of many users: all or none',
		session => \&session,
		sql => sub {
			$what = !$there ? 'enroll' : !$out ? 'opt_out' : rand() < 0.5 ? 'opt_in' : 'forget';
			return "SELECT optout.$what($users" . ($what eq 'forget' ? ', force => true)' : ')');
		},
		check => sub {
			my ($session, $cancelled) = @_;

			unless ($cancelled)
			{
				$there = $what ne 'forget';
				$out = $what eq 'opt_out';
			}
			my $expected = ($out ? $n : 0) . '|' . ($there ? $n : 0) . '|' . ($out ? $n : 0) . "|0\n0";
			my @states = ($session->query($state), $watcher->query($state), $node->safe_psql('postgres', $state));

			return 1 unless grep { $_ ne $expected } @states;
			diag("$what, " . ($cancelled ? 'cancelled' : 'done') . ": expected $expected, found @states");
			return 0;
		});

	# It waits for a user's row when all others are locked, and for another who
	# opts a user out when others have been written.
	my $blocker = OptoutTest::Session->new($node);
	my $admin = OptoutTest::Session->new($node);

	$admin->query("SELECT optout.enroll($users); SELECT optout.opt_in($users)");
	for my $block (
		"SELECT FROM optout.product_user WHERE user_id = 'a$n' FOR UPDATE",
		"INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by)
			VALUES ('default', 'a$n', now(), 'x')")
	{
		my ($how) = $block =~ /^(\w+)/;

		for my $in_savepoint (0, 1)
		{
			$blocker->query("BEGIN; $block");
			$admin->query("BEGIN; SELECT optout.opt_out('a7'); SAVEPOINT s") if $in_savepoint;
			$admin->begin("SELECT optout.opt_out($users)");
			$admin->wait_for_lock($node);
			$canceller->query('SELECT pg_cancel_backend(' . $admin->pid . ')');
			like(($admin->finish)[1], $interrupted, "$how: opt_out() cancelled as it waits");
			$admin->query('ROLLBACK TO s; COMMIT') if $in_savepoint;
			$blocker->query('ROLLBACK');

			my $expected = ($in_savepoint ? "1|$n|1" : "0|$n|0") . "|0\n0";
			is($_->query($state), $expected, "$how: " . ($in_savepoint ? 'only what was before the savepoint' : 'nobody is opted out'))
			  for $admin, $watcher;
			$admin->query("SELECT optout.opt_in('a7')");
		}
	}
	is($admin->query("SELECT optout.opt_out($users)"), $n, 'and can be done again');
	is($watcher->query($state), "$n|$n|$n|0\n0", 'everybody is opted out');
	$admin->query("SELECT optout.forget($users, force => true)");
	$_->quit for $watcher, $blocker, $admin;
}

#
# The adding of keys to the filter, after a start or because rows have been
# written without its trigger: the session that was interrupted in it is still
# there, but somebody else takes it up.
#
{
	my $n = 0;
	my $added = 20;
	my $new;

	# at the end of the table, where an interrupted scan has not been; nobody has
	# asked for these users before
	my $unseen = sub {
		$n++;
		$new = "(SELECT 'k$n-' || i AS u FROM generate_series(1, $added) i) AS k";
		$canceller->query(qq{
			BEGIN;
			ALTER TABLE optout.opt_out_period DISABLE TRIGGER optout_filter;
			INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by)
				SELECT 'default', u, now(), 'x' FROM $new;
			ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter;
			COMMIT});
	};

	interrupt_often(
		'adding of keys',
		session => \&session,
		prepare => $unseen,
		sql => "SELECT optout.accepts('r0')",
		check => sub {
			my ($session, $cancelled) = @_;
			my $discarded = "SELECT count(*) FROM $new WHERE NOT optout.accepts(u)";

			# either of them may be the one that takes it up
			my @sessions = rand() < 0.5 ? ($session, $canceller) : ($canceller, $session);
			my @counts = map { $_->query($discarded) } @sessions;
			wait_until_ready($sessions[0]);
			push @counts, map { $_->query("$discarded; SELECT shared_filter, optout.verify() FROM optout.status") =~ s/\nready\|0$//r } @sessions;

			return 1 unless grep { $_ ne $added } @counts;
			diag(($cancelled ? 'cancelled' : 'done') . ": of $added users are discarded: @counts");
			return 0;
		});

	# undone to a savepoint only: the transaction goes on, and keeps nobody from
	# taking it up
	my ($interrupted_often, $failed) = (0, 0);
	my $delay = 0.05;
	my $session = session();

	while ($interrupted_often < $rounds)
	{
		$unseen->();
		$session->query('BEGIN; SAVEPOINT s');
		$session->begin("SELECT optout.accepts('r0')");
		$canceller->query("SELECT pg_sleep(" . rand($delay) . '), pg_cancel_backend(' . $session->pid . ')');
		($session->finish)[1] =~ $interrupted ? $interrupted_often++ : ($delay *= 0.8);
		$session->query('ROLLBACK TO s');
		my $discarded = "SELECT count(*) FROM $new WHERE NOT optout.accepts(u)";
		my @counts = map { $_->query($discarded) } $canceller, $session;
		wait_until_ready($canceller);
		push @counts, map { $_->query("$discarded; SELECT shared_filter, optout.verify() FROM optout.status") =~ s/\nready\|0$//r } $canceller, $session;
		$session->query('COMMIT');
		$failed++, diag("savepoint: of $added users are discarded: @counts") if grep { $_ ne $added } @counts;
	}
	is($failed, 0, 'adding of keys, undone to a savepoint');
	$session->quit;

	# after starts, with two who ask at once, the first of whom is interrupted
	for my $round (1 .. 2)
	{
		my $log_offset = -s $node->logfile;

		$canceller->quit;
		$node->restart;
		$canceller = session();
		my ($first, $second) = (session(), session());

		$first->query('SET statement_timeout = 1');
		$first->begin("SELECT optout.accepts('r0')");
		$second->begin("SELECT optout.accepts('r1')");
		my ($out, $err) = $first->finish;
		ok($err eq '' || $err =~ $interrupted, 'after a start: first session is interrupted, or not');
		is(($second->finish)[0], 'f', 'after a start: the other session is answered');
		no_timeout($first, 'statement_timeout');
		wait_until_ready($second);
		ok(right($first, 'after a start'), 'after a start: answers are right');
		is( $second->query("SELECT count(*) FROM optout.opt_out_list WHERE optout.accepts(user_id)"),
			0, 'after a start: all who are opted out are discarded');
		$node->wait_for_log(qr/optout added the keys of \d+ rows/, $log_offset);
		$_->quit for $first, $second;
	}
}

#
# The reading of the whole table into a session's memo.  Each session asks for
# users' past until that pays.
#
{
	interrupt_often(
		'reading of the whole table into the memo',
		anew => 1,
		session => sub { session("SET work_mem = '64MB'") },
		sql => "SELECT count(*) FILTER (WHERE optout.accepts('r' || n, NULL, $was_out)) FROM generate_series(2, 4000, 2) n",
		check => sub { right($_[0], 'memo, ' . ($_[1] ? 'cancelled' : 'done')) });
}

#
# verify()
#
interrupt_often(
	'verify()',
	session => \&session,
	sql => 'SELECT optout.verify()',
	check => sub { right($_[0], 'verify') });

#
# settle() while it waits
#
{
	my ($ingest, $settler) = (session(), session());

	$ingest->query("BEGIN; INSERT INTO guarded VALUES (0, 'r2')");
	for my $how ('cancel', 'statement_timeout', 'lock_timeout')
	{
		$settler->query("SET $how = '1ms'") if $how ne 'cancel';
		$settler->begin('CALL optout.settle()');
		if ($how eq 'cancel')
		{
			$settler->wait_for_lock($node);
			$canceller->query('SELECT pg_cancel_backend(' . $settler->pid . ')');
		}
		like(($settler->finish)[1], qr/ERROR:  (57014|55P03): canceling statement due to/, "settle(), $how: it does not say that it is done");
		no_timeout($settler, $how) if $how ne 'cancel';
		is($canceller->query('SELECT count(*) FROM pg_locks WHERE pid = ' . $settler->pid), 0, "settle(), $how: no lock is left");
		is( $canceller->query("SELECT optout.enroll('s'); SELECT optout.opt_out('s'), optout.accepts('s'), optout.opt_in('s')"),
			"\nt|f|t", "settle(), $how: others go on");
	}
	$settler->begin('CALL optout.settle()');
	$settler->wait_for_lock($node);
	$ingest->query('ROLLBACK');
	is(join('', $settler->finish), '', 'settle() once more waits until the batch has ended');
	$_->quit for $ingest, $settler;
}

#
# The commit of a transaction that discards, as it adds to the ledger: the batch
# and its discards are both there or neither is.  statement_timeout ends before the
# commit begins, so it is lock_timeout that can interrupt it.
#
{
	my ($ingest, $blocker) = (session(), session());
	my $discards = 'SELECT coalesce(sum(discarded), 0) FROM optout.discards';
	my $state = "SELECT (SELECT count(*) FROM guarded), (SELECT count(*) FROM event), ($discards)";
	my ($stored, $discarded) = (0, $node->safe_psql('postgres', $discards));
	my $file = $node->basedir . '/batch';

	append_to_file($file, "1\tr1\n1\tr3\n1\tr0\n");
	for my $way (
		[ "INSERT INTO guarded VALUES (1, 'r1'), (1, 'r3'), (1, 'r0')" ],
		[ "COPY guarded FROM '$file'" ],
		[ "BEGIN; INSERT INTO guarded VALUES (1, 'r1'), (1, 'r3'), (1, 'r0')", 'COMMIT' ],
		[ "BEGIN; SAVEPOINT s; INSERT INTO guarded VALUES (1, 'r1'), (1, 'r3'), (1, 'r0'); RELEASE s", 'COMMIT AND CHAIN', 'ROLLBACK' ],
		[ "BEGIN; INSERT INTO guarded VALUES (1, 'r1'), (1, 'r3'), (1, 'r0')", "PREPARE TRANSACTION 'batch'", "COMMIT PREPARED 'batch'" ])
	{
		my ($first, $last, $after) = @$way == 1 ? (undef, @$way) : @$way;

		for my $how ('cancel', 'lock_timeout')
		{
			my $what = "$last, $how";

			# who writes into the ledger has to wait until the blocker is done
			$blocker->query('BEGIN; LOCK TABLE optout.discard_ledger IN SHARE MODE');
			$ingest->query($first) if defined $first;
			$ingest->query('SET lock_timeout = 1') if $how ne 'cancel';
			$ingest->begin($last);
			if ($how eq 'cancel')
			{
				$ingest->wait_for_lock($node);
				$canceller->query('SELECT pg_cancel_backend(' . $ingest->pid . ')');
			}
			like(($ingest->finish)[1], qr/ERROR:  (57014|55P03): canceling statement due to/, "$what: not acknowledged");
			$blocker->query('COMMIT');
			no_timeout($ingest, 'lock_timeout') if $how ne 'cancel';

			is($canceller->query($state), "$stored|0|$discarded", "$what: neither stored nor counted");
			is($ingest->query("SELECT optout.accepts('r0'); SELECT count(*) FROM pg_prepared_xacts"),
				"t\n0", "$what: what comes next in the session finds nothing of it");
			is($canceller->query($state), "$stored|0|$discarded", "$what: nor does it count");

			# the same session again
			$ingest->query(join('; ', grep { defined } $first, $last));
			$ingest->query($after) if defined $after;
			$stored += 1;
			$discarded += 2;
			is($canceller->query($state), "$stored|0|$discarded", "$what: again, stored and counted once");
		}
	}

	# At random: from a batch so large that it takes a while, its discards and its
	# commit.
	my $size = 3000;
	my $sql = "INSERT INTO %s SELECT 2, 'r' || n FROM generate_series(1, $size) n";

	$canceller->query('TRUNCATE guarded, event, optout.discard_ledger');
	($stored, $discarded) = (0, 0);
	interrupt_often(
		'batch with its discards: both or neither',
		session => \&session,
		sql => sub { sprintf($sql, rand() < 0.5 ? 'guarded' : 'event') . ' WHERE optout.accepts(\'r\' || n)' },
		check => sub {
			my ($session, $cancelled) = @_;

			$stored += $size / 2, $discarded += $size / 2 unless $cancelled;
			my $found = $canceller->query("SELECT (SELECT count(*) FROM guarded) + (SELECT count(*) FROM event), ($discards)");

			return 1 if $found eq "$stored|$discarded";
			diag("expected $stored|$discarded, found $found");
			return 0;
		});
	is($canceller->query('SELECT count(*) FROM guarded JOIN optout.opt_out_list USING (user_id)'), 0, 'nobody who is opted out is stored');
	$_->quit for $ingest, $blocker;
}

#
# The session's reading of the filter's trigger from the catalog: its next
# question reads it again.
#
{
	my ($session, $blocker) = (session(), session());

	# it has read all of the table's definition, but asked nothing yet
	$session->query('SELECT count(*) FROM optout.opt_out_period');
	$blocker->query('BEGIN; LOCK TABLE pg_catalog.pg_trigger IN ACCESS EXCLUSIVE MODE');
	$session->begin("SELECT optout.accepts('r1')");
	$session->wait_for_lock($node);
	$blocker->query('SELECT pg_cancel_backend(' . $session->pid . ')');
	like(($session->finish)[1], $interrupted, 'cancelled as it reads the catalog');
	$blocker->query('ROLLBACK');
	is($session->query("SELECT optout.accepts('r1'), optout.accepts('r0')"), 'f|t', 'answers are right');
	is($session->query('SELECT shared_filter, optout.verify() FROM optout.status'), 'ready|0', 'and come from the filter');
	$_->quit for $session, $blocker;
}

my $end = session();
ok(right($end, 'at the end'), 'answers are right at the end');
$end->quit;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|leak|was terminated by signal|still referenced/, 'nothing leaks');
$canceller->quit;
$node->stop;
done_testing();
