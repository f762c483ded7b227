# Crashes and restarts, and two-phase commit: an opt-out is in force from its
# acknowledged commit on, whatever happens to the server after it, and one that
# has not been committed leaves no trace.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {}, q{
max_prepared_transactions = 10
restart_after_crash = on
});
my $ingest;

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(ARRAY['alice', 'bob']);
	CREATE TABLE event (user_id text);
	SELECT optout.guard('event')});

# Whether alice's events are accepted: by the filter and by the guard, in a new
# session and in one with a snapshot taken when $ingest began.
sub check_accepted
{
	my ($accepted, $what) = @_;
	my $check = q{
		SELECT optout.accepts('alice'), NOT optout.is_opted_out('alice');
		INSERT INTO event VALUES ('alice'), ('bob');
		SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM event;
		DELETE FROM event};
	my $expected = $accepted ? "t|t\nalice bob" : "f|f\nbob";

	is($node->safe_psql('postgres', $check), $expected, $what);
	is($ingest->query($check), $expected, "$what, REPEATABLE READ") if defined $ingest;
}

sub begin_ingest
{
	$ingest = OptoutTest::Session->new($node);
	$ingest->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM optout.opt_out_period');
}

sub end_ingest
{
	$ingest->quit;
	undef $ingest;
}

sub crash
{
	$node->stop('immediate');
	$node->start;
}

#
# Crash of the server.
#
$node->safe_psql('postgres', q{SELECT optout.opt_out('alice')});
crash();
check_accepted(0, 'crash after an opt-out');

$node->safe_psql('postgres', q{SELECT optout.opt_in('alice')});
crash();
check_accepted(1, 'crash after an opt-in');

my $admin = OptoutTest::Session->new($node);
$admin->query(q{BEGIN; SELECT optout.opt_out('alice')});
$node->safe_psql('postgres', 'CHECKPOINT');
crash();
$admin->quit;
check_accepted(1, 'crash in the middle of an opt-out');
is($node->safe_psql('postgres', q{SELECT optout.opt_out('alice')}), 't', 'which can be done again');

$admin = OptoutTest::Session->new($node);
$admin->query(q{BEGIN; SELECT optout.opt_in('alice')});
$node->safe_psql('postgres', 'CHECKPOINT');
crash();
$admin->quit;
check_accepted(0, 'crash in the middle of an opt-in');
is($node->safe_psql('postgres', q{SELECT optout.opt_in('alice')}), 't', 'which can be done again');

#
# Crash of one backend: of one that has opted out and not committed, and of one
# that waits for it.
#
for my $victim (0, 1)
{
	my @admins = map { OptoutTest::Session->new($node) } 0 .. 1;
	my $what = $victim == 0 ? 'kill -9 of an opt-out' : 'kill -9 of an opt-out that waits';
	my $log_offset = -s $node->logfile;

	$admins[0]->query(q{BEGIN; SELECT optout.opt_out('alice')});
	$admins[1]->begin(q{SELECT optout.opt_out('alice')});
	$admins[1]->wait_for_lock($node);
	system_or_bail('pg_ctl', 'kill', 'KILL', $admins[$victim]->pid);
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $log_offset);
	$node->poll_query_until('postgres', 'SELECT true') or die 'server does not come back';
	$_->quit for @admins;

	check_accepted(1, $what);
	is( $node->safe_psql('postgres', q{
			SELECT optout.opt_out('alice'), optout.opt_in('alice')}),
		't|t', "$what: which can be done again");
}

#
# Two-phase commit.
#
sub prepare
{
	my ($action) = @_;

	$node->safe_psql('postgres', qq{
		BEGIN; SELECT optout.$action('alice'); PREPARE TRANSACTION 'administration'});
}

# Whoever acts on the same user has to wait, and on another has not.
sub check_waits
{
	my ($what) = @_;

	like( errors_of($node, qq{SET lock_timeout = '1ms'; SELECT optout.$_('alice')}),
		qr/ERROR:  55P03: canceling statement due to lock timeout/,
		"$what: $_ of the same user waits")
	  for 'opt_out', 'opt_in', 'forget';
	is($node->safe_psql('postgres', q{SELECT optout.opt_out('bob'), optout.opt_in('bob')}),
		't|t', "$what: another user can be opted out and in");
}

for my $action ('opt_out', 'opt_in')
{
	my $before = $action eq 'opt_in' ? 0 : 1;

	$node->safe_psql('postgres', q{SELECT optout.opt_out('alice')}) if $action eq 'opt_in';

	# rolled back, with and without a crash in between
	for my $with_crash (0, 1)
	{
		my $what = $with_crash ? "$action prepared, crash" : "$action prepared";

		begin_ingest() unless $with_crash;
		prepare($action);
		crash() if $with_crash;
		begin_ingest() if $with_crash;
		check_accepted($before, "$what: not in force");
		check_waits($what);
		$node->safe_psql('postgres', q{ROLLBACK PREPARED 'administration'});
		check_accepted($before, "$what: ROLLBACK PREPARED");
		end_ingest();
	}

	# committed, likewise
	for my $with_crash (0, 1)
	{
		my $what = $with_crash ? "$action prepared, crash" : "$action prepared";
		my $undo = $action eq 'opt_in' ? 'opt_out' : 'opt_in';

		begin_ingest() unless $with_crash;
		prepare($action);
		crash() if $with_crash;
		begin_ingest() if $with_crash;
		check_accepted($before, "$what: still not in force");
		$node->safe_psql('postgres', q{COMMIT PREPARED 'administration'});
		check_accepted(!$before, "$what: COMMIT PREPARED");
		end_ingest();

		crash();
		check_accepted(!$before, "$what: crash after COMMIT PREPARED");
		is($node->safe_psql('postgres', "SELECT optout.$undo('alice')"), 't', "$what: $undo");
		check_accepted($before, "$what: undone");
	}
}

# One who waits for a prepared opt-out acts by what became of it.
for my $end ('COMMIT', 'ROLLBACK')
{
	my $waiter = OptoutTest::Session->new($node);

	$node->safe_psql('postgres', q{SELECT optout.opt_in('alice')});
	prepare('opt_out');
	$waiter->begin(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT optout.opt_out('alice'); COMMIT});
	$waiter->wait_for_lock($node);
	$node->safe_psql('postgres', qq{$end PREPARED 'administration'});
	my ($out, $err) = $waiter->finish;
	is("$out$err", $end eq 'COMMIT' ? 'f' : 't', "opt-out that waits for $end PREPARED");
	$waiter->quit;
	check_accepted(0, "opt-out that waits for $end PREPARED: opted out");
}

is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM optout.opt_out_history a JOIN optout.opt_out_history b
			ON (a.organization, a.user_id) = (b.organization, b.user_id) AND a.opted_out_at < b.opted_out_at
				AND coalesce(a.opted_in_at, 'infinity') > b.opted_out_at}),
	0, 'no periods overlap');

$node->stop;
done_testing();
