# What the TAP tests share: servers with the extension, and psql sessions that stay
# open while the test does something else.  PostgreSQL's own background sessions
# differ from version to version.
package OptoutTest;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(new_server errors_of stored ingest_tables offer check_exact wait_until_ready);

# Start a server; init and settings are those of Cluster's init() and a
# configuration file.
sub new_server
{
	my ($name, $init, $settings) = @_;
	my $node = OptoutTest::Server->new($name);

	$node->init(%{ $init // {} });
	$node->append_conf('postgresql.conf', $settings) if defined $settings;
	$node->start;
	return $node;
}

# What the statements report on stderr, with SQLSTATEs.
sub errors_of
{
	my ($node, $sql, %params) = @_;
	my ($dbname, $stderr) = ($params{dbname} // 'postgres');

	$node->psql($dbname, "\\set VERBOSITY verbose\n$sql",
		stderr => \$stderr, on_error_stop => 0);
	return $stderr;
}

# Ask until all keys have been added, as it is done a few milliseconds at a time.
# By a session of the test, or by new ones of a server.
sub wait_until_ready
{
	my ($session, %params) = @_;
	my $node = $session->can('safe_psql') ? $session : undef;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $status = 'SELECT shared_filter FROM optout.status';
		my $found = $node ? $node->safe_psql($params{dbname} // 'postgres', $status) : $session->query($status);

		return if $found eq 'ready';
		die "filter is $found" if $found ne 'loading';
		select undef, undef, undef, 0.01;
	}
	die 'filter does not become ready';
}

# The rows of an event table by user and phase, in one line.
sub stored
{
	my ($node, $table, %params) = @_;

	return $node->safe_psql(
		$params{dbname} // 'postgres', qq{
		SELECT string_agg(user_id || ' ' || phase || ' ' || n, ', ' ORDER BY user_id, phase)
		  FROM (SELECT user_id, phase, count(*) AS n FROM $table
				 WHERE user_id IN ('alice', 'bob') GROUP BY 1, 2) AS counts});
}

# Make what offer() needs: a guarded table, one that is filled through accepts(),
# whose events are offered to both, and how many have been.  The candidates are
# u1, u2 and so on.
sub ingest_tables
{
	my ($node, $candidates, %params) = @_;

	$node->safe_psql(
		$params{dbname} // 'postgres', qq{
		CREATE TABLE candidate AS SELECT 'u' || n AS user_id FROM generate_series(1, $candidates) AS n;
		CREATE TABLE guarded (user_id text);
		SELECT optout.guard('guarded');
		CREATE TABLE filtered (user_id text);
		CREATE TABLE offered (events bigint)});
}

# The statement that offers an event of each candidate to both tables, and tells
# whose were discarded by each.
sub offer
{
	return q{
		WITH offer AS (INSERT INTO offered SELECT 2 * count(*) FROM candidate),
			 g AS (INSERT INTO guarded SELECT user_id FROM candidate RETURNING user_id),
			 f AS (INSERT INTO filtered SELECT user_id FROM candidate WHERE optout.accepts(user_id) RETURNING user_id)
		SELECT coalesce(string_agg(user_id, ' ' ORDER BY user_id) FILTER (WHERE user_id NOT IN (SELECT user_id FROM g)), '-') || ' / ' ||
			   coalesce(string_agg(user_id, ' ' ORDER BY user_id) FILTER (WHERE user_id NOT IN (SELECT user_id FROM f)), '-')
		  FROM candidate};
}

# Exactly these of the candidates are opted out: by the list, and by what is
# discarded on the word of the table, in a new session and in open ones.  The
# shared filter misses nobody, and all that was offered was stored or counted.
sub check_exact
{
	my ($node, $out, $what, %params) = @_;
	my $dbname = $params{dbname} // 'postgres';
	my $list = join(' ', sort @$out) || '-';
	my $open = 0;

	is( $node->safe_psql($dbname,
			q{SELECT coalesce(string_agg(user_id, ' ' ORDER BY user_id), '-') FROM optout.opt_out_list JOIN candidate USING (user_id)
			   WHERE organization = 'default'}),
		$list, "$what: list");
	is($node->safe_psql($dbname, 'SET optout.filter = off; ' . offer()), "$list / $list", "$what: table");
	is($node->safe_psql($dbname, offer()), "$list / $list", "$what: new session");
	is($_->query(offer()), "$list / $list", "$what: open session " . ++$open)
	  for @{ $params{sessions} // [] };
	is( $node->safe_psql($dbname, q{
			SELECT optout.verify(),
				   (SELECT sum(events) FROM offered) - (SELECT count(*) FROM guarded) - (SELECT count(*) FROM filtered)
				   - (SELECT coalesce(sum(discarded), 0) FROM optout.discards)}),
		'0|0', "$what: filter and ledger are exact");
}

# A server as PostgreSQL's own tests have it.  That one starts a program for every
# server and for every query, which takes longer than most of what is asked.
package OptoutTest::Server;

use strict;
use warnings;
use Fcntl ':flock';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils ();    # or its functions would be methods
use Test::More ();
use Time::HiRes ();

our @ISA = ('PostgreSQL::Test::Cluster');

my @initdb_options = ('--encoding=UTF8', '--locale=C');
my $servers = 0;

# The first server of a test gets a copy of a data directory that is made once for
# all tests, the second one of another, and so on: each has its own system identifier.
sub init
{
	my ($self, %params) = @_;
	my $shared = "$PostgreSQL::Test::Utils::tmp_check/initdb" . ++$servers;
	my $run = \&PostgreSQL::Test::Utils::system_or_bail;

	open(my $lock, '>', "$shared.lock") or die $!;
	flock($lock, LOCK_EX) or die $!;
	if (!-d $shared)
	{
		$run->('initdb', '-D', "$shared.new", '-A', 'trust', '-N', @initdb_options);
		rename("$shared.new", $shared) or die $!;
	}
	close($lock);

	no warnings 'redefine';
	local *PostgreSQL::Test::Utils::system_or_bail = sub {
		$run->($_[0] eq 'initdb' ? ('cp', '-R', $shared, $self->data_dir) : @_);
	  }
	  unless $params{extra};
	$self->SUPER::init(%params, extra => [ @initdb_options, @{ $params{extra} // [] } ]);
}

# In a session of its own, as there, but by a psql process that serves others later.
sub psql
{
	my ($self, $dbname, $sql, %params) = @_;

	# whatever else is wanted takes a process of its own
	return $self->SUPER::psql($dbname, $sql, %params)
	  if grep { !/^(stdout|stderr|on_error_stop|on_error_die)$/ } keys %params;

	local %ENV = $self->_get_env();
	my $session = OptoutTest::Session->connect($self->connstr($dbname),
		verbosity => 'default', on_error_stop => $params{on_error_stop} // 1);
	my ($status, $out, $err) = $session->run($sql);

	$session->quit;
	die "psql ends with status $status: $err\nwhile running $sql" if $status && $params{on_error_die};
	${ $params{stdout} } = $out if $params{stdout};
	${ $params{stderr} } = $err if $params{stderr};
	return wantarray ? ($status, $out, $err) : $status;
}

# Set something that takes a reload.  Sessions and workers that begin after this
# have the setting; others get it when they look.
sub set_and_reload
{
	my ($self, $name, $value) = @_;

	$self->append_conf('postgresql.conf', "$name = '$value'");
	$self->reload;
	$self->poll_query_until('postgres', "SELECT current_setting('$name') = '$value'") or die "$name does not become $value";
}

sub poll_query_until
{
	my ($self, $dbname, $query, $expected) = @_;
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;
	my ($out, $err);

	while (time < $until)
	{
		$self->psql($dbname, $query, stdout => \$out, stderr => \$err);
		return 1 if $out eq ($expected // 't') && $err eq '';
		Time::HiRes::usleep(20_000);
	}
	Test::More::diag("still \"$out\", $err\nfrom $query");
	return 0;
}

package OptoutTest::Session;

use strict;
use warnings;
use IO::Socket::UNIX;
use IPC::Run;
use PostgreSQL::Test::Utils;

# Idle psql processes, by the environment in which they were started.  psql ends
# without a connection, so each has one to this process meanwhile.
my %idle;
my $directory = PostgreSQL::Test::Utils::tempdir_short();
my $listeners = 0;
my $greeting = join('', map { pack('a N a*', $_->[0], 4 + length $_->[1], $_->[1]) } [ R => pack('N', 0) ],
	[ S => "client_encoding\0UTF8\0" ], [ S => "standard_conforming_strings\0on\0" ], [ Z => 'I' ]);

sub new
{
	my ($class, $node, %params) = @_;
	my $self = $class->connect($node->connstr($params{dbname} // 'postgres'));

	$self->{pid} = $self->query('SELECT pg_backend_pid()');
	return $self;
}

# Connect a psql process: one that is idle, or a new one.
sub connect
{
	my ($class, $connstr, %params) = @_;
	my $environment = join("\n", map { "$_=$ENV{$_}" } grep { /^PG/ } sort keys %ENV);
	my $process = pop @{ $idle{$environment} };
	my $self = bless { process => $process }, $class;

	if ($process)
	{
		my $quoted = $connstr =~ s/([\\'])/\\$1/gr;

		$self->send("\\set ON_ERROR_STOP 1\n\\connect -reuse-previous=off '$quoted'\n");
		delete $process->{idle};
	}
	else
	{
		$self->{process} = $process = { in => '', out => '', err => '', started => 0, environment => $environment };
		$process->{timer} = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);
		$process->{psql} = IPC::Run::start([ 'psql', '-XAtq', '-d', $connstr, '-f', '-' ],
			'<', \$process->{in}, '>', \$process->{out}, '2>', \$process->{err}, $process->{timer});
	}
	$self->send("\\set VERBOSITY " . ($params{verbosity} // 'verbose')
		  . "\n\\set ON_ERROR_STOP " . ($params{on_error_stop} // 0) . "\n");
	return $self;
}

# The server process.
sub pid
{
	my ($self) = @_;
	return $self->{pid};
}

# Send the input and do not wait.
sub send
{
	my ($self, $input) = @_;
	my $process = $self->{process};

	$process->{timer}->start;
	$process->{in} .= $input;
	eval { $process->{psql}->pump_nb while length $process->{in} };
	die "psql has ended: $process->{err}" if length $process->{in};
}

# Begin statements and do not wait for them; finish() does.
sub begin
{
	my ($self, $sql) = @_;

	# after a line of \copy, psql would send the semicolon as a query of its own
	$self->send($sql . ($sql =~ /\n\z/ ? '' : ";\n") . $self->_marker);
}

sub _marker
{
	my ($self) = @_;
	my $marker = 'statement ' . ++$self->{process}{started} . ' done';

	return "\\echo $marker\n\\warn $marker\n";
}

sub _done
{
	my ($self) = @_;
	my $process = $self->{process};
	my $marker = "statement $process->{started} done\n";

	return $process->{out} =~ /\Q$marker\E/ && $process->{err} =~ /\Q$marker\E/;
}

# Wait for what begin() began; returns its output and what it reported.
sub finish
{
	my ($self) = @_;
	my $process = $self->{process};

	$process->{timer}->start;
	$process->{psql}->pump until $self->_done;
	return $self->_result;
}

sub _result
{
	my ($self) = @_;
	my $process = $self->{process};
	my $marker = "statement $process->{started} done\n";
	my ($out, $err) = ($process->{out}, $process->{err});

	$process->{out} = $process->{err} = '';
	s/\n?\Q$marker\E// for $out, $err;
	return ($out, $err);
}

# The same without waiting: nothing while it goes on.  Dies where psql has ended,
# as it does with the connection.
sub poll
{
	my ($self) = @_;

	$self->{process}{psql}->pump_nb unless $self->_done;
	return $self->_done ? $self->_result : ();
}

# What kind of failure is reported, if any.  psql may send a statement after the
# server has crashed, and go on with its script before it ends.
sub failure
{
	my ($err) = @_;
	return $err =~ /(ERROR|FATAL|PANIC):|server closed the connection/ ? $1 // 'connection lost' : undef;
}

# Execute statements that must succeed; returns their output.
sub query
{
	my ($self, $sql) = @_;

	$self->begin($sql);
	my ($out, $err) = $self->finish;
	die "\"$sql\" failed: $err" if failure($err);
	return $out;
}

# Execute statements that must fail; returns what they reported.
sub query_fails
{
	my ($self, $sql) = @_;

	$self->begin($sql);
	my ($out, $err) = $self->finish;
	die "\"$sql\" did not fail: $out" unless $err =~ /(ERROR|FATAL|PANIC):/;
	return $err;
}

# Execute a script, as a psql of its own would; returns the exit status, too.
sub run
{
	my ($self, $sql) = @_;
	my $process = $self->{process};
	my @result = eval {
		$self->send($sql . ($sql =~ /(;|^\\.*)\s*\z/m ? "\n" : "\n;\n") . $self->_marker);
		$self->finish;
	};

	return (0, @result) if @result;
	die $@ if $process->{timer}->is_expired;

	# it has ended at an error or with the connection
	delete $self->{process};
	$process->{psql}->finish;
	chomp($process->{out}, $process->{err});
	return ($process->{psql}->result(0), $process->{out}, $process->{err});
}

# COPY ... FROM STDIN: begin_copy(), send() of lines, end_copy().
sub begin_copy
{
	my ($self, $sql) = @_;

	$self->send("$sql;\n");
}

sub end_copy
{
	my ($self) = @_;

	$self->send("\\.\n" . $self->_marker);
	my ($out, $err) = $self->finish;
	die "COPY failed: $err" if $err ne '';
}

# Wait until the session's server process waits for a lock.
sub wait_for_lock
{
	my ($self, $node) = @_;

	$node->poll_query_until('postgres', qq{
		SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $self->{pid}})
	  or die "session does not wait for a lock";
}

# End the session, whether or not the server is still there.
sub quit
{
	my ($self) = @_;
	my $process = $self->{process} or return;

	eval {
		$self->send($self->_marker);
		$self->finish;

		# a socket for each, lest we answer somebody who has given up
		my $port = ++$listeners;
		my $listener = IO::Socket::UNIX->new(Local => "$directory/.s.PGSQL.$port", Listen => 1, Timeout => 10) or die $!;
		$self->send("\\connect -reuse-previous=off 'host=$directory port=$port'\n" . $self->_marker);
		$process->{idle} = $listener->accept or die 'psql does not connect';
		sysread($process->{idle}, my $startup, 10_000);
		syswrite($process->{idle}, $greeting);
		$self->finish;
		push @{ $idle{ $process->{environment} } }, $process;
	} or eval { $process->{psql}->finish };
	delete $self->{process};
}

1;
