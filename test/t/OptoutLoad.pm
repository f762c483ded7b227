# Sessions that ingest, administer and report all at once, beside whatever a test
# does to their servers, and a record of what has been acknowledged to them.
#
# All of them are driven by one process, so there is one order of what was begun
# and what was acknowledged, and with it a rule that has no exceptions: a user
# whose opt-out was acknowledged before a batch was begun, and whose opt-in was
# not begun before it ended, has no event in it; for whom it is the other way
# round, all their events are.  What a crash left in doubt is looked up and then
# has to be one or the other, as a whole.
#
#	my $load = OptoutLoad->new($node);
#	$load->setup;
#	$load->run(20);			# until so many batches have been completed
#	... fault ...
#	$load->lose;			# every session notices that its server is gone
#	$load->reconnect;
#	$load->check('what has happened');
#
# OPTOUT_ROUNDS in the environment has the tests do more of the same,
# OPTOUT_SEED has them draw the same random numbers again.
package OptoutLoad;

use strict;
use warnings;
use List::Util qw(shuffle uniq);
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

# in these tables the batches end up: without and with a guard
my @tables = ('event', 'guarded');

my $gid = 0;

# Parameters: ingest, report: other nodes than the first one, on which users are
# administered; two_phase: prepare some transactions; admins, ingesters,
# reporters: how many sessions; users: how many for each administrator.
sub new
{
	my ($class, $node, %params) = @_;
	my $self = bless {
		nodes => {
			admin => $node,
			ingest => $params{ingest} // $node,
			report => $params{report} // $params{ingest} // $node
		},
		two_phase => $params{two_phase},
		on_error => $params{on_error},
		sessions => {
			admin => $params{admins} // 2,
			ingest => $params{ingesters} // 3,
			report => $params{reporters} // 1
		},
		out => {},
		pending => {},
		under_way => [],
		batches => [],
		doubtful => [],
		clients => [],
		problems => [],
		completed => {},
		follow => 1
	}, $class;
	my $seed = $ENV{OPTOUT_SEED} // int(rand(2**31));

	srand($seed);
	note("OPTOUT_SEED=$seed");
	for my $admin (0 .. $self->{sessions}{admin} - 1)
	{
		$self->{users}[$admin] = [ map { "u$admin-$_" } 1 .. $params{users} // 15 ];
	}
	return $self;
}

# How often to do it, if not told otherwise.
sub rounds
{
	my ($default) = @_;
	return $ENV{OPTOUT_ROUNDS} // $default;
}

sub users
{
	my ($self) = @_;
	return map { @$_ } @{ $self->{users} };
}

sub array
{
	return "'{" . join(',', @_) . "}'::text[]";
}

# Make everything that is needed, and connect.  Some users are opted out already.
sub setup
{
	my ($self) = @_;
	my @users = $self->users;
	my @out = grep { rand() < 0.3 } @users;

	$self->{nodes}{admin}->safe_psql('postgres',
		"CREATE EXTENSION optout; SELECT optout.enroll(" . array(@users) . '), optout.opt_out(' . array(@out) . ')');
	$self->{nodes}{ingest}->safe_psql('postgres', 'CREATE EXTENSION optout')
	  if $self->{nodes}{ingest} != $self->{nodes}{admin};
	$self->{out}{$_} = 1 for @out;
	$self->create_tables;
}

sub create_tables
{
	my ($self) = @_;

	$self->{nodes}{ingest}->safe_psql('postgres', q{
		CREATE TABLE event (batch int, user_id text);
		CREATE TABLE guarded (batch int, user_id text);
		SELECT optout.guard('guarded')});
}

# Those roles that have no session now.
sub connect
{
	my ($self) = @_;

	for my $role (sort keys %{ $self->{sessions} })
	{
		next if grep { $_->{role} eq $role } @{ $self->{clients} };
		push @{ $self->{clients} },
		  { role => $role, number => $_, session => OptoutTest::Session->new($self->{nodes}{$role}), hold => 0 }
		  for 0 .. $self->{sessions}{$role} - 1;
	}
}

# The server processes of those sessions.
sub pids
{
	my ($self, @roles) = @_;

	return map { $_->{session}->pid }
	  grep { my $client = $_; grep { $client->{role} eq $_ } @roles } @{ $self->{clients} };
}

sub problem
{
	my ($self, $what) = @_;
	push @{ $self->{problems} }, $what;
}

#
# Actions: statements, the index of the one that commits, and that of the one
# that prepares, if any.
#

# Whether those who ingest and report see what has been acknowledged to those who
# administer.
sub follow
{
	my ($self, $whether) = @_;
	$self->{follow} = $whether;
}

# Whose answer is known for as long as nobody begins to change it.
sub sure
{
	my ($self) = @_;

	return {} unless $self->{follow};
	my %sure = map { $_ => $self->{out}{$_} ? 'out' : 'in' }
	  grep { !$self->{pending}{$_} } $self->users;

	return \%sure;
}

# In one of the ways to do it: alone, in a transaction, prepared, rolled back.
# Each statement is a step of its own, since what comes next depends on whether
# it has failed: without its BEGIN it would be committed, and without its
# SAVEPOINT it could not be rolled back.
sub transaction
{
	my ($self, @statements) = @_;
	my $way = rand();
	my $name = 'load-' . ++$gid;
	my $end = @statements + 1;

	return (steps => [ 'BEGIN', @statements, 'ROLLBACK' ], undone => $end) if $way < 0.1;
	return (
		steps => [ 'BEGIN', @statements, "PREPARE TRANSACTION '$name'", "COMMIT PREPARED '$name'" ],
		prepare => $end, commit => $end + 1, gid => $name) if $self->{two_phase} && $way < 0.5;
	return (steps => [ 'BEGIN', @statements, 'COMMIT' ], commit => $end)
	  if $way < 0.7 || @statements > 1;
	return (steps => [@statements], commit => 0);
}

sub administer
{
	my ($self, $number) = @_;
	my @mine = shuffle(@{ $self->{users}[$number] });
	my @out = grep { $self->{out}{$_} } @mine;
	my @in = grep { !$self->{out}{$_} } @mine;
	my $what = rand();
	my ($to, @users, @statements);

	return { steps => [ ('CHECKPOINT', 'CALL optout.settle()', 'VACUUM optout.opt_out_period')[ rand 3 ] ], commit => 0 }
	  if $what < 0.06;

	if (rand(@mine) < @in)
	{
		@users = splice(@in, 0, 1 + rand 4);
		@statements = (
			@users == 1 ? "SELECT optout.opt_out('$users[0]')::int" : 'SELECT optout.opt_out(' . array(@users) . ')');
		$to = 'out';
	}
	else
	{
		@users = splice(@out, 0, 1 + rand 4);
		@statements = (
			@users == 1 ? "SELECT optout.opt_in('$users[0]')::int" : 'SELECT optout.opt_in(' . array(@users) . ')');
		@statements = ('SELECT optout.forget(' . array(@users) . ', force => true)',
			'SELECT optout.enroll(' . array(@users) . ')') if $what < 0.2;
		$to = 'in';
	}
	return { change => { users => \@users, to => $to }, $self->transaction(@statements) };
}

sub ingest
{
	my ($self) = @_;
	my @users = $self->users;
	my $batch = { id => @{ $self->{batches} } + 1, offered => { kept => 1 }, sure => $self->sure };
	my $id = $batch->{id};
	my @statements;

	$batch->{offered}{ $users[ rand @users ] }++ for 1 .. 5 + rand 20;
	my @events = shuffle(map { ($_) x $batch->{offered}{$_} } sort keys %{ $batch->{offered} });
	my $values = 'VALUES ' . join(', ', map { "($id, '$_')" } @events);
	my $way = int(rand 4);

	if ($way < 2)
	{
		# a file for each batch, since one that is in doubt may still be read
		my $file = $self->{nodes}{ingest}->basedir . "/batch_$id";

		append_to_file($file, join('', map { "$id\t$_\n" } @events));
		@statements = ($way == 0 ? "\\copy event FROM '$file' WHERE optout.accepts(user_id)\n" : "\\copy guarded FROM '$file'\n");
	}
	else
	{
		@statements = ($way == 2 ? "INSERT INTO guarded $values" :
			  "INSERT INTO event SELECT * FROM ($values) AS offered (batch, user_id) WHERE optout.accepts(user_id)");
	}
	@statements = ('SAVEPOINT s', @statements, 'ROLLBACK TO s', @statements) if rand() < 0.2;
	push @{ $self->{batches} }, $batch;

	return { batch => $batch, $self->transaction(@statements) };
}

sub report
{
	my ($self) = @_;
	my $users = array($self->users);
	my $who = {
		'is_opted_out' => "SELECT u FROM unnest($users) u WHERE optout.is_opted_out(u)",
		'opt_out_list' => 'SELECT user_id FROM optout.opt_out_list',
		'user_list' => 'SELECT user_id FROM optout.user_list WHERE opted_out'
	};
	my $how = (sort keys %$who)[ rand 3 ];

	return { asked => { sure => $self->sure, how => $how }, steps => [ $who->{$how} ], commit => 0 };
}

#
# What becomes of them
#

# Whoever is being changed is somebody whom nobody can be sure of.
sub begin_change
{
	my ($self, $change) = @_;

	for my $user (@{ $change->{users} })
	{
		$self->{pending}{$user} = 1;
		delete $_->{sure}{$user} for @{ $self->{under_way} };
	}
}

sub end_change
{
	my ($self, $change, $to) = @_;

	for my $user (@{ $change->{users} })
	{
		delete $self->{pending}{$user};
		$self->{out}{$user} = $to eq 'out' if defined $to;
	}
}

# An action has ended: 'committed' or 'undone'.
sub end_action
{
	my ($self, $action, $outcome) = @_;
	my $committed = $outcome eq 'committed';
	my $batch = $action->{batch};

	$self->end_change($action->{change}, $committed ? $action->{change}{to} : undef) if $action->{change};
	$batch->{outcome} = $outcome if $batch;
}

sub begin_step
{
	my ($self, $client) = @_;
	my $action = $client->{action};
	my $step = $client->{step};

	$self->begin_change($action->{change})
	  if $action->{change} && defined $action->{commit} && $step == $action->{commit};
	$client->{session}->begin($action->{steps}[$step]);
}

# A step of an action has been done.  Once the filter has been asked for the last
# time, which is before the step that ends the transaction, opt-outs and opt-ins
# do not matter to a batch any more.
sub end_step
{
	my ($self, $client, $out) = @_;
	my $action = $client->{action};
	my $step = $client->{step};

	if ($action->{asked})
	{
		my %out = map { $_ => 1 } split /\n/, $out;
		my $sure = $action->{asked}{sure};
		my @wrong = grep { ($sure->{$_} eq 'out') != exists $out{$_} } sort keys %$sure;

		$self->problem("report $action->{asked}{how} is wrong about @wrong") if @wrong;
	}
	my $last = ($action->{prepare} // $action->{commit} // $action->{undone}) - 1;
	$self->finish_under_way($action) if $step == ($last < 0 ? 0 : $last);

	my ($count) = $out =~ /^(\d+)$/m;
	$self->problem("$action->{steps}[$step] returned $count")
	  if $action->{change} && defined $count && $count != @{ $action->{change}{users} };
}

# The step that rolls back to the savepoint what this one does, if any.
sub undone_by
{
	my ($action, $step) = @_;
	my ($savepoint, $back) = grep { $action->{steps}[$_] =~ /^(SAVEPOINT|ROLLBACK TO) s$/ } 0 .. $#{ $action->{steps} };

	return defined $back && $savepoint < $step && $step < $back ? $back : undef;
}

sub finish_under_way
{
	my ($self, $action) = @_;
	my $asking = $action->{batch} // $action->{asked};

	@{ $self->{under_way} } = grep { $_ != $asking } @{ $self->{under_way} } if $asking;
}

# Let a client go on, if it can.  Returns whether it has an action now.
sub advance
{
	my ($self, $client, $draining) = @_;
	my $action = $client->{action};

	if ($action && $client->{hold} == 0)
	{
		my @result = $client->{session}->poll;
		return 1 unless @result;
		my ($out, $err) = @result;

		if (my $failure = OptoutTest::Session::failure($err))
		{
			die "connection lost" if $failure ne 'ERROR';
			$self->problem("$action->{steps}[$client->{step}]: $err")
			  unless $self->{on_error} && $self->{on_error}->($client->{role}, $err);

			# what fails after the savepoint is undone with it, and the rest counts
			if (defined(my $back = undone_by($action, $client->{step})))
			{
				$client->{step} = $back;
				$self->begin_step($client);
				return 1;
			}
			$self->finish_under_way($action);
			$self->end_action($action, 'undone');
			$client->{action} = $action = { steps => ['ROLLBACK'], commit => 0 };
			$client->{step} = 0;
			$self->begin_step($client);
			return 1;
		}
		$self->end_step($client, $out);
		$client->{step}++;

		# some take their time until they go on
		$client->{hold} = 1 + int(rand 60) if defined $action->{prepare} || rand() < 0.2;
	}
	if ($action)
	{
		return 1 if $client->{hold} > 0 && --$client->{hold} > 0;
		if ($client->{step} < @{ $action->{steps} })
		{
			$self->begin_step($client);
			return 1;
		}
		$self->finish_under_way($action);
		$self->end_action($action, $action->{undone} ? 'undone' : 'committed');
		$self->{completed}{ $client->{role} }++;
		delete $client->{action};
	}
	return 0 if $draining;

	$client->{action} = $action =
	    $client->{role} eq 'admin' ? $self->administer($client->{number})
	  : $client->{role} eq 'ingest' ? $self->ingest
	  : $self->report;
	$client->{step} = 0;
	my $asking = $action->{batch} // $action->{asked};
	push @{ $self->{under_way} }, $asking if $asking;
	$self->begin_step($client);
	return 1;
}

# Go on until so many more batches have been completed, or actions of another role.
sub run
{
	my ($self, $actions, $role) = @_;
	my $completed = \$self->{completed}{ $role // 'ingest' };
	my $goal = ($$completed // 0) + int($actions);

	while (($$completed // 0) < $goal)
	{
		$self->advance($_) for @{ $self->{clients} };
		usleep(300);
	}
}

# Finish what has been begun, and nothing more.
sub drain
{
	my ($self) = @_;

	while (grep { $self->advance($_, 1) } @{ $self->{clients} })
	{
		usleep(300);
	}
}

# Have the sessions of these roles notice that their server is gone.
sub lose
{
	my ($self, @roles) = @_;
	my %lost = map { $_ => 1 } @roles ? @roles : keys %{ $self->{sessions} };

	for my $client (grep { $lost{ $_->{role} } } @{ $self->{clients} })
	{
		# an answer may have arrived before
		my $action = $client->{action};
		my @result;

		until (@result || ($action && $client->{hold} > 0))
		{
			last unless $action && eval { @result = $client->{session}->poll; 1 };
			usleep(300);
		}
		my $answered = @result && !OptoutTest::Session::failure($result[1]);
		if ($answered)
		{
			$self->end_step($client, $result[0]);
			$client->{step}++;
		}
		$client->{session}->quit;
		next unless $action;

		$self->finish_under_way($action);
		if ($client->{step} == @{ $action->{steps} })
		{
			$self->end_action($action, $action->{undone} ? 'undone' : 'committed');
		}
		elsif (defined $action->{commit}
			&& $client->{step} >= ($action->{prepare} // $action->{commit}))
		{
			# the next step was begun, unless the last one has just been answered
			$action->{begun} = $answered || $client->{hold} > 0 ? 0 : 1;
			$action->{step} = $client->{step};
			push @{ $self->{doubtful} }, $action;
		}
		else
		{
			$self->end_action($action, 'undone');
		}
	}
	@{ $self->{clients} } = grep { !$lost{ $_->{role} } } @{ $self->{clients} };
}

# Connect again, having looked up what became of what was in doubt.
sub reconnect
{
	my ($self) = @_;

	$self->resolve;
	$self->connect;
}

# On the servers of those roles that have no session now.
sub resolve
{
	my ($self) = @_;
	my %connected = map { $_->{role} => 1 } @{ $self->{clients} };
	my %prepared;

	for my $node (uniq(map { $self->{nodes}{$_} } grep { !$connected{$_} } sort keys %{ $self->{nodes} }))
	{
		$prepared{$_} = $node
		  for split /\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts');
	}

	for my $action (@{ $self->{doubtful} })
	{
		my $name = $action->{gid};
		my $outcome;

		if (defined $name && (my $node = delete $prepared{$name}))
		{
			$outcome = rand() < 0.5 ? 'committed' : 'undone';
			$self->begin_change($action->{change}) if $action->{change};
			$node->safe_psql('postgres', ($outcome eq 'committed' ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$name'");
		}
		elsif (defined $name && $action->{step} == $action->{prepare})
		{
			$outcome = 'undone';
		}
		elsif (defined $name)
		{
			# it had been prepared, so it was the next step that ended it
			$self->problem("$name, which was prepared, is lost") unless $action->{begun};
			$outcome = 'committed';
		}
		elsif (!$action->{begun})
		{
			$outcome = 'undone';
		}
		elsif (my $change = $action->{change})
		{
			my %out = map { $_ => 1 } $self->listed;
			my @out = grep { $out{$_} } @{ $change->{users} };

			$self->problem("in doubt were @{ $change->{users} }, and opted out are only @out")
			  if @out && @out != @{ $change->{users} };
			$outcome = @out == ($change->{to} eq 'out' ? @{ $change->{users} } : 0) ? 'committed' : 'undone';
		}
		elsif (my $batch = $action->{batch})
		{
			$outcome = exists $self->stored_events->{ $batch->{id} } ? 'committed' : 'undone';
		}
		else
		{
			$outcome = 'undone';
		}
		$self->end_action($action, $outcome);
	}
	$self->problem("nobody prepared $_") for sort keys %prepared;
	note(scalar(@{ $self->{doubtful} }) . ' transactions were in doubt');
	$self->{doubtful} = [];
}

#
# What there is
#
sub listed
{
	my ($self) = @_;
	return split /\n/, $self->{nodes}{admin}->safe_psql('postgres', 'SELECT user_id FROM optout.opt_out_list ORDER BY user_id');
}

# batch => user => number of events
sub stored_events
{
	my ($self) = @_;
	my %stored;

	for (split /\n/, $self->{nodes}{ingest}->safe_psql('postgres', join(' UNION ALL ', map { "SELECT batch, user_id, count(*) FROM $_ GROUP BY 1, 2" } @tables)))
	{
		my ($batch, $user, $n) = split /\|/;
		$stored{$batch}{$user} += $n;
	}
	return \%stored;
}

# How many events were offered by committed batches, and how many are there.
sub offered
{
	my ($self) = @_;
	my $n = 0;

	for my $batch (grep { ($_->{outcome} // '') eq 'committed' } @{ $self->{batches} })
	{
		$n += $_ for values %{ $batch->{offered} };
	}
	return $n;
}

# Whom filter, guard and table would discard, by a session of its own, which
# leaves no trace.
sub discarded
{
	my ($self) = @_;
	my $users = array($self->users);

	return $self->{nodes}{ingest}->safe_psql('postgres', qq{
		BEGIN;
		WITH stored AS (INSERT INTO guarded SELECT 0, u FROM unnest($users) u RETURNING user_id)
		SELECT string_agg(u, ' ' ORDER BY u) FILTER (WHERE NOT optout.accepts(u)),
			   string_agg(u, ' ' ORDER BY u) FILTER (WHERE optout.is_opted_out(u)),
			   string_agg(u, ' ' ORDER BY u) FILTER (WHERE u NOT IN (SELECT user_id FROM stored))
		  FROM unnest($users) u;
		SET LOCAL optout.filter = off;
		SELECT string_agg(u, ' ' ORDER BY u) FILTER (WHERE NOT optout.accepts(u)) FROM unnest($users) u;
		ROLLBACK});
}

# Compare all of it with what was acknowledged.  Sessions may be there, but idle.
sub check
{
	my ($self, $what) = @_;
	my $out = join ' ', sort grep { $self->{out}{$_} } $self->users;
	my $node = $self->{nodes}{ingest};
	my $stored = $self->stored_events;
	my ($leaked, $lost, $strange, $kept) = (0, 0, 0, 0);

	is($self->discarded, "$out|$out|$out\n$out", "$what: who is discarded");
	is(join(' ', $self->listed), $out, "$what: who is listed");
	is($_->safe_psql('postgres', 'SELECT optout.verify()'), '0', "$what: verify")
	  for uniq(@{ $self->{nodes} }{ 'admin', 'ingest' });
	is( $self->{nodes}{admin}->safe_psql('postgres', q{
			SELECT count(*) FROM optout.opt_out_history a JOIN optout.opt_out_history b
				ON (a.organization, a.user_id) = (b.organization, b.user_id) AND a.opted_out_at < b.opted_out_at
					AND coalesce(a.opted_in_at, 'infinity') > b.opted_out_at}),
		0, "$what: no periods overlap");

	for my $batch (@{ $self->{batches} })
	{
		my $there = delete $stored->{ $batch->{id} };
		my ($offered, $sure) = @{$batch}{ 'offered', 'sure' };

		if (($batch->{outcome} // '') ne 'committed')
		{
			$strange++ if $there;
			next;
		}
		for my $user (keys %$offered)
		{
			my $n = $there->{$user} // 0;

			$kept += $n;
			$leaked++ if $n > 0 && ($sure->{$user} // '') eq 'out';
			$lost++ if $n < $offered->{$user} && ($user eq 'kept' || ($sure->{$user} // '') eq 'in');
			$strange++ if $n > $offered->{$user};
		}
	}
	$strange += keys %$stored;
	is("$leaked leaked, $lost lost, $strange strange", '0 leaked, 0 lost, 0 strange',
		"$what: batches (" . scalar(@{ $self->{batches} }) . ')');
	is($kept + $node->safe_psql('postgres', 'SELECT coalesce(sum(discarded), 0) FROM optout.discards'),
		$self->offered, "$what: offered = stored + discarded");
	is(join("\n", @{ $self->{problems} }), '', "$what: nothing unexpected");
	$self->{problems} = [];
}

# Go on for a while, finish, and compare.
sub run_and_check
{
	my ($self, $batches, $what) = @_;

	$self->run($batches);
	$self->drain;
	$self->check($what);
}

sub quit
{
	my ($self) = @_;

	$self->drain;
	$_->{session}->quit for @{ $self->{clients} };
	$self->{clients} = [];
}

1;
