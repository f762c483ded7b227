# Dynamic shared memory that comes and goes, where the filter is made on demand (17
# and later).  Who cannot have it reads by the table; who cannot tell whether others
# rely on the filter is refused to write, with an error, and loses nothing; all is
# well again as soon as there is memory.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $settings = "shared_preload_libraries = ''\nautovacuum = off\ndynamic_shared_memory_type = mmap\n"
  . "optout.filter_memory = '1MB'\nmax_prepared_transactions = 5\n";
my $node = new_server('main', {}, $settings);
plan skip_all => 'no filter without preloading before version 17'
  if $node->safe_psql('postgres', q{SELECT current_setting('server_version_num')::int < 170000}) eq 't';

# Where the memory comes from can be taken away.
my $memory = $node->data_dir . '/pg_dynshmem';

sub memory
{
	my ($mode) = @_;
	chmod $mode, $memory or die "chmod $memory: $!";
}

# The file that holds the filter's blocks, of more than a megabyte; the server's own
# of that size have powers of 2.
sub blocks
{
	my @found = grep { my $size = -s $_; $size > 1024 * 1024 && ($size & ($size - 1)) } glob "$memory/mmap.*";

	die "not one file of blocks: @found" if @found != 1;
	return $found[0];
}

sub reach_blocks
{
	my ($mode) = @_;
	chmod $mode, blocks() or die "chmod: $!";
}

memory(0500);
my $privileged = -w $memory;
memory(0700);
plan skip_all => 'file permissions do not bind this user' if $privileged;

my $status = 'SELECT shared_filter FROM optout.status';
my $refused = qr/ERROR:  42501: could not open shared memory segment/;
my $told = qr/optout uses its table, because there can be no shared filter: /;
my @out;
my @sessions;

sub open_session
{
	push @sessions, OptoutTest::Session->new($node);
	return $sessions[-1];
}

sub check
{
	my ($what) = @_;
	check_exact($node, \@out, $what, sessions => \@sessions);
}

sub close_sessions
{
	$_->quit for splice @sessions;
}

# Every kind of writer is refused, and nothing has changed.
sub check_writers_refused
{
	my ($what, @writers) = @_;
	my $state = 'SELECT md5(string_agg(p::text, p::text ORDER BY p::text)) FROM optout.opt_out_period AS p';
	my $before = $node->safe_psql('postgres', $state);

	for my $sql (q{SELECT optout.opt_out('u9')}, q{SELECT optout.opt_out('{u9,u10}'::text[])},
		"SELECT optout.opt_in('$out[0]')",
		q{INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by) VALUES ('default', 'u9', now(), 'x')},
		q{BEGIN; SELECT optout.opt_out('u9'); COMMIT},
		q{BEGIN; SELECT optout.opt_out('u9'); PREPARE TRANSACTION 'x'})
	{
		like(errors_of($node, $sql), $refused, "$what: $sql");
		like($_->query_fails("$sql; ROLLBACK"), $refused, "$what: open session: $sql") for @writers;
	}
	is($node->safe_psql('postgres', $state), $before, "$what: nothing has changed");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '0', "$what: nothing prepared");
}

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 20) AS n});
ingest_tables($node, 20);
$node->safe_psql('postgres', q{SELECT optout.opt_out('{u1,u2}'::text[])});
@out = ('u1', 'u2');
$node->restart;

#
# None from the beginning.
#
memory(0500);
my $offset = -s $node->logfile;
my $reader = open_session();
is($reader->query($status), 'absent', 'no memory');
check('no memory');
like(slurp_file($node->logfile, $offset), $told, 'said in the log');
my $writer = open_session();
check_writers_refused('no memory', $reader, $writer);
check('no memory, written');

# a transaction that goes on with other things
$writer->query('BEGIN; SAVEPOINT s');
like($writer->query_fails(q{SELECT optout.opt_out('u9')}), $refused, 'within a savepoint');
is($writer->query('ROLLBACK TO s; ' . offer()), 'u1 u2 / u1 u2', 'within a savepoint: same transaction');
$writer->query('COMMIT');
check('no memory, within a savepoint');

# and then there is
memory(0700);
$writer->query(q{SELECT optout.opt_out('u3')});
$reader->query(q{SELECT optout.opt_out('u4')});
push @out, 'u3', 'u4';
check('memory again');
is($node->safe_psql('postgres', $status), 'ready', 'memory again: a new session makes the filter');

# who was without it tries again after a while
my $found;
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	$found = $reader->query($status);
	last if $found eq 'ready';
	select undef, undef, undef, 0.1;
}
is($found, 'ready', 'memory again: a session that was without it');
$node->safe_psql('postgres', q{SELECT optout.opt_out('u5'), optout.opt_in('u1')});
@out = ('u2' .. 'u5');
check('memory again, written');

#
# It is there, but not for new sessions.
#
my @warm = map { open_session() } 1 .. 2;
$_->query(offer()) for @warm;
reach_blocks(0);
$offset = -s $node->logfile;
my $late = open_session();
my $reading = open_session();
is($_->query($status), 'absent', 'filter out of reach') for $late, $reading;
check('filter out of reach');
like(slurp_file($node->logfile, $offset), $told, 'filter out of reach: said in the log');
unlike(slurp_file($node->logfile, $offset), qr/$told.*\n.*(STATEMENT|CONTEXT):/, 'filter out of reach: without the statement');
check_writers_refused('filter out of reach', $late);
$warm[0]->query(q{SELECT optout.opt_out('u6')});
$warm[1]->query(q{SELECT optout.opt_in('u2')});
@out = ('u3' .. 'u6');
check('written by those who reach it');
reach_blocks(0600);
$late->query(q{SELECT optout.opt_out('u7'), optout.opt_in('u3')});
@out = ('u4' .. 'u7');
check('within reach');

# whoever only reads tries again after a while
my $tries = 0;
while ($reading->query($status) ne 'ready' && $tries++ < 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	select undef, undef, undef, 0.1;
}
is($reading->query($status), 'ready', 'within reach: a session that could not have it has it');
check('within reach, tried again');
close_sessions();

#
# What is prepared and what is in progress while there is none.
#
$writer = open_session();
$writer->query(q{BEGIN; SELECT optout.opt_out('u11'); PREPARE TRANSACTION 'prepared'});
$writer->query(q{BEGIN; SELECT optout.opt_out('u12')});
reach_blocks(0);
open_session();
is($node->safe_psql('postgres', offer()), 'u4 u5 u6 u7 / u4 u5 u6 u7', 'nothing committed yet');
$node->safe_psql('postgres', "COMMIT PREPARED 'prepared'");
$writer->query('COMMIT');
push @out, 'u11', 'u12';
check('committed without memory');
reach_blocks(0600);
check('committed without memory, within reach');
close_sessions();

# The registry of such memory is there, thanks to another extension, but not yet
# what the filter needs.
SKIP:
{
	skip 'no pg_prewarm', 1
	  if $node->safe_psql('postgres', q{SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_prewarm'}) eq '0';
	$node->restart;
	$node->safe_psql('postgres', 'CREATE EXTENSION IF NOT EXISTS pg_prewarm');
	$node->safe_psql('postgres', 'SELECT autoprewarm_dump_now()');
	my $first = open_session();
	$first->query('SELECT autoprewarm_dump_now()');
	memory(0500);
	is($first->query($status), 'absent', 'first part cannot be made');
	check('first part cannot be made');
	check_writers_refused('first part cannot be made');
	memory(0700);
	my $second = open_session();
	is(errors_of($node, q{SELECT optout.opt_out('u13')}), '', 'first part can be made');
	push @out, 'u13';
	check('first part can be made');
	is($second->query($status), 'ready', 'first part can be made: filter');
	close_sessions();
	$node->safe_psql('postgres', 'DROP EXTENSION pg_prewarm');
}

#
# Set aside at the start, it needs no file.
#
$node->append_conf('postgresql.conf', "min_dynamic_shared_memory = '8MB'\n");
$node->restart;
memory(0500);
open_session() for 1 .. 2;
is($node->safe_psql('postgres', $status), 'ready', 'memory set aside');
check('memory set aside');
$node->safe_psql('postgres', q{SELECT optout.opt_out('u14'), optout.opt_in('u4')});
@out = (grep({ $_ ne 'u4' } @out), 'u14');
check('memory set aside, written');
memory(0700);
close_sessions();

# Too little of it: the filter does not fit, all else does.
$node->append_conf('postgresql.conf', "optout.filter_memory = '16MB'\n");
$node->restart;
memory(0500);
$reader = open_session();
is($reader->query($status), 'absent', 'memory set aside is too small');
check('memory set aside is too small');
$node->safe_psql('postgres', q{SELECT optout.opt_out('u15')});
$reader->query(q{SELECT optout.opt_in('u14')});
@out = (grep({ $_ ne 'u14' } @out), 'u15');
check('memory set aside is too small, written');
memory(0700);
is($node->safe_psql('postgres', $status), 'ready', 'made once it fits');
check('made once it fits');
$reader->query(q{SELECT optout.opt_out('u16')});
push @out, 'u16';
check('made once it fits, written');
close_sessions();

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'no crash');
$node->stop;
done_testing();
