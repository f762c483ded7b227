# Without shared_preload_libraries: where the server can allocate named shared
# memory (17 and later), the first session that asks makes the filter; elsewhere,
# and if the memory cannot be had, memo and table answer.  No writer is missed,
# whoever comes first, and nobody fails for lack of memory but a writer whom
# others rely on.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $settings = "shared_preload_libraries = ''\nautovacuum = off\nmax_prepared_transactions = 5\n";
my $node = new_server('main', {}, $settings);
my $on_demand = $node->safe_psql('postgres', q{SELECT current_setting('server_version_num')::int >= 170000}) eq 't';
my $there = $on_demand ? 'ready' : 'absent';
my $status = 'SELECT shared_filter FROM optout.status';
my $discarded = q{SELECT COALESCE(string_agg(u, ' ' ORDER BY u), '-')
	FROM unnest('{a,b,c,d,e,kept}'::text[]) AS u WHERE NOT optout.accepts(u)};

# an answer of each session, and of the table
sub check
{
	my ($expected, $what, @sessions) = @_;

	is($node->safe_psql('postgres', "SET optout.filter = off; $discarded"), $expected, "$what: table");
	is($node->safe_psql('postgres', $discarded), $expected, "$what: new session");
	is($_->query($discarded), $expected, "$what: open session") foreach @sessions;
	is($node->safe_psql('postgres', 'SELECT optout.verify()'), '0', "$what: verify");
}

$node->safe_psql('postgres', q{CREATE EXTENSION optout;
	SELECT optout.enroll('{a,b,c,d,e,kept}'::text[]); SELECT optout.opt_out('a')});

# A row that is written before there are blocks, and committed after they have
# been made and the keys added.
my $writer = OptoutTest::Session->new($node);
$writer->query("BEGIN; SELECT optout.opt_out('b')");

my $reader = OptoutTest::Session->new($node);
is($reader->query($status), $there, 'made by the first session that asks');
check('a', 'before the commit', $reader);
$writer->query('COMMIT');
check('a b', 'written before the filter was made', $reader, $writer);

# a session that has written before, and one that only writes
$writer->query("SELECT optout.opt_out('c')");
check('a b c', 'written by a session that had written before', $reader, $writer);
$node->safe_psql('postgres', "SELECT optout.opt_out('d')");
check('a b c d', 'written by a session that only writes', $reader, $writer);
$writer->query("SELECT optout.opt_in('{b,c}'::text[])");
check('a d', 'opted in', $reader, $writer);

# parallel workers
is( $node->safe_psql(
		'postgres', q{
		CREATE TABLE event AS SELECT CASE n % 4 WHEN 0 THEN 'a' ELSE 'kept' END AS user_id FROM generate_series(1, 20000) n;
		SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
		SELECT count(*) FROM event WHERE optout.is_opted_out(user_id)}),
	'5000', 'parallel workers');

# made anew after a crash
$writer->query("BEGIN; SELECT optout.opt_out('b'); PREPARE TRANSACTION 'b'");
$node->stop('immediate');
$node->start;
$reader->quit;
$writer->quit;
is($node->safe_psql('postgres', $status), $there, 'after a crash');
$reader = OptoutTest::Session->new($node);
check('a d', 'after a crash', $reader);
$node->safe_psql('postgres', "COMMIT PREPARED 'b'");
check('a b d', 'prepared before it', $reader);
$reader->quit;

# Memory that cannot be had: told once a session, in the log only.
$node->append_conf('postgresql.conf', "optout.filter_memory = '1TB'\n");
$node->restart;
my $offset = -s $node->logfile;
$reader = OptoutTest::Session->new($node);
is($reader->query($status), 'absent', 'no memory');
check('a b d', 'no memory', $reader);
$node->safe_psql('postgres', "SELECT optout.opt_out('e')");
check('a b d e', 'written without memory', $reader);
my $log = slurp_file($node->logfile, $offset);
is($log =~ /optout uses its table, because there can be no shared filter: / ? 't' : 'f',
	$on_demand ? 't' : 'f', 'said in the log');
unlike($log, qr/ERROR:/, 'no error');

# and once it can be had, others have it
$node->append_conf('postgresql.conf', "optout.filter_memory = '1MB'\n");
$node->reload;
$node->poll_query_until('postgres', "SELECT shared_filter = '$there' FROM optout.status")
  or die "filter is not $there";
check('a b d e', 'memory', $reader);
$reader->quit;

# none is wanted
$node->append_conf('postgresql.conf', "optout.filter_memory = 0\n");
$node->restart;
is($node->safe_psql('postgres', $status), 'absent', 'no memory wanted');
is($node->safe_psql('postgres', q{SELECT ok, detail FROM optout.checks WHERE name = 'filter'}),
	'f|absent: optout is not in shared_preload_libraries, or optout.filter_memory is 0', 'the check says why');
check('a b d e', 'no memory wanted');

done_testing();
