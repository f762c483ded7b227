# What the TAP tests share: a server with the extension, and psql sessions that
# stay open while the test does something else.  PostgreSQL's own background
# sessions differ from version to version.
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
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%{ $init // {} },
		extra => [ '--encoding=UTF8', '--locale=C', @{ ($init // {})->{extra} // [] } ]);
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

package OptoutTest::Session;

use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Utils;

sub new
{
	my ($class, $node, %params) = @_;
	my $self = bless { in => '', out => '', err => '', started => 0 }, $class;

	$self->{timer} = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);
	$self->{psql} = IPC::Run::start(
		[
			'psql', '-XAtq', '-v', 'VERBOSITY=verbose',
			'-d', $node->connstr($params{dbname} // 'postgres'), '-f', '-'
		],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err},
		$self->{timer});
	$self->{pid} = $self->query('SELECT pg_backend_pid()');
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

	$self->{timer}->start;
	$self->{in} .= $input;
	$self->{psql}->pump_nb while length $self->{in};
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
	my $marker = 'statement ' . ++$self->{started} . ' done';

	return "\\echo $marker\n\\warn $marker\n";
}

# Wait for what begin() began; returns its output and what it reported.
sub finish
{
	my ($self) = @_;
	my $marker = "statement $self->{started} done\n";

	$self->{timer}->start;
	$self->{psql}->pump
	  until $self->{out} =~ /\Q$marker\E/ && $self->{err} =~ /\Q$marker\E/;

	my ($out, $err) = ($self->{out}, $self->{err});
	$self->{out} = $self->{err} = '';
	s/\n?\Q$marker\E// for $out, $err;
	return ($out, $err);
}

# The same without waiting: nothing while it goes on.  Dies where psql has ended,
# as it does with the connection.
sub poll
{
	my ($self) = @_;
	my $marker = "statement $self->{started} done\n";
	my $done = sub { $self->{out} =~ /\Q$marker\E/ && $self->{err} =~ /\Q$marker\E/ };

	$self->{psql}->pump_nb unless $done->();
	return $done->() ? $self->finish : ();
}

# Execute statements that must succeed; returns their output.
sub query
{
	my ($self, $sql) = @_;

	$self->begin($sql);
	my ($out, $err) = $self->finish;
	die "\"$sql\" failed: $err" if $err =~ /(ERROR|FATAL|PANIC):/;
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

	# not by end of file, for servers started since have inherited the pipe
	eval {
		$self->send("\\q\n");
		$self->{psql}->finish;
	};
}

1;
