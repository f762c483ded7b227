# The adding of keys after a start goes on where it was left, whoever is cancelled
# on the way, and whatever happens to the table meanwhile.  Databases that are gone
# leave room for others; where there is none, the table answers, and says so.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nautovacuum = off\nlog_statement = none\n");
my $rows = 3000;
my $state = 'optout.opt_out_period';
my $disable = "ALTER TABLE $state DISABLE TRIGGER optout_filter";
my $enable = "ALTER TABLE $state ENABLE ALWAYS TRIGGER optout_filter";
my $put = "INSERT INTO $state (organization, user_id, opted_out_at, opted_out_by) SELECT 'default', u, now(), 'x' FROM";
my $added = qr/optout added the keys of (\d+) rows/;

# A statement that is cancelled in its first look-up, as soon as it can be.
my $cancelled = "SELECT pg_cancel_backend(pg_backend_pid()), optout.accepts('u1')";

$node->safe_psql('postgres', qq{
	CREATE EXTENSION optout;
	$disable; $put (SELECT 'u' || n AS u FROM generate_series(1, $rows) n) AS s; $enable;
	VACUUM ANALYZE $state});
my $blocks = $node->safe_psql('postgres', "SELECT pg_relation_size('$state') / current_setting('block_size')::int");
my ($session, $log_offset);

# How many blocks are done of how many, to somebody who does not go on with it.
sub progress { return $node->safe_psql('postgres', q{SELECT done || ' of ' || total FROM optout.progress WHERE command = 'add keys'}) }

sub restart
{
	$session->quit if defined $session;
	$node->restart;
	$session = OptoutTest::Session->new($node);
	# what a session reads from the catalog before, where it could be cancelled, too
	$session->query("SET enable_seqscan = off; SELECT FROM $state WHERE user_id = 'x'; SELECT FROM pg_trigger WHERE tgrelid = 1 AND tgname = 'x'");
	$log_offset = -s $node->logfile;
}

# So many statements are cancelled.
sub cancel
{
	my ($n) = @_;
	like($session->query_fails($cancelled), qr/ERROR:  57014/, 'cancelled') for 1 .. $n;
}

# Exactly these of the candidates are out, as the table and both kinds of session
# say, and the filter is ready.
sub check
{
	my ($what) = @_;
	my $ask = q{SELECT count(*) FILTER (WHERE NOT optout.accepts(u)), md5(string_agg(u, ' ' ORDER BY u) FILTER (WHERE NOT optout.accepts(u)))
		FROM (SELECT 'u' || n AS u FROM generate_series(1, 4000) n) AS s};
	my $expected = $node->safe_psql('postgres', "SET optout.filter = off; $ask");

	wait_until_ready($node);
	is($session->query($ask), $expected, "$what: open session");
	is($node->safe_psql('postgres', $ask), $expected, "$what: new session");
	is($node->safe_psql('postgres', 'SELECT optout.verify()'), '0', "$what: verify");
	is($node->safe_psql('postgres', "SELECT count(*) FROM $state WHERE opted_in_at IS NULL AND optout.accepts(user_id)"), '0', "$what: nobody is missed");
}

#
# Nobody but those who are cancelled
#
cmp_ok($blocks, '>', 20, 'the table has many blocks');
restart();
my $statements = 0;
my ($done, $log) = (0, '');
while ($statements++ < 2 * $blocks && $log !~ $added)
{
	my $before = $done;

	cancel(1);
	($done) = (progress() || "$blocks of $blocks") =~ /^(\d+)/;
	cmp_ok($done, '>=', $before, 'nothing is done again');
	$log = slurp_file($node->logfile, $log_offset);
}
like($log, $added, 'all keys are added, though each statement was cancelled');
my ($found) = $log =~ $added;
is($found, $rows, 'each row once');
check('cancelled at each block');

#
# What happens to the table half way
#
my %half = (
	'truncated by VACUUM' => "DELETE FROM $state WHERE ctid >= '(5,1)'; VACUUM $state",
	'truncated, then larger again' =>
	  "DELETE FROM $state WHERE ctid >= '(5,1)'; VACUUM $state; $put (SELECT 'u' || n AS u FROM generate_series(3001, 3999) n) AS s",
	'rows where it has been' => "DELETE FROM $state WHERE ctid < '(4,1)'; VACUUM $state; $put (SELECT 'u' || n AS u FROM generate_series(3001, 3100) n) AS s",
	'rows moved to where it has been' =>
	  "DELETE FROM $state WHERE ctid < '(4,1)'; VACUUM $state; UPDATE $state SET user_id = 'u' || substr(user_id, 2)::int + 1000 WHERE ctid >= '($blocks,1)'::tid OR user_id IN ('u2998', 'u2999', 'u3000')",
	'VACUUM FULL' => "DELETE FROM $state WHERE ctid < '(4,1)'; VACUUM FULL $state",
	'TRUNCATE' => "TRUNCATE $state; $put (VALUES ('u3001')) AS s(u)",
	'trigger disabled, rows at the beginning' =>
	  "DELETE FROM $state WHERE ctid < '(2,1)'; VACUUM $state; BEGIN; $disable; $put (VALUES ('u3001'), ('u3002')) AS s(u); $enable; COMMIT",
	'the same, rolled back' => "BEGIN; $disable; $put (VALUES ('u3001')) AS s(u); $enable; SELECT optout.accepts('u3001'); ROLLBACK",
);
$node->safe_psql('postgres', "CREATE TABLE copied AS TABLE $state");
my $fill = "BEGIN; $disable; TRUNCATE $state; INSERT INTO $state SELECT * FROM copied ORDER BY substr(user_id, 2)::int; $enable; COMMIT";
for my $what (sort keys %half)
{
	$node->safe_psql('postgres', $fill);
	restart();
	cancel(10);
	like(progress(), qr/^([89]|10) of $blocks$/, "$what: half way");
	$node->safe_psql('postgres', $half{$what});
	check($what);
}

# A transaction that has made a version of its own does not keep others from
# getting on, nor do they it.
$node->safe_psql('postgres', $fill);
restart();
cancel(5);
my $before = progress();
my $altering = OptoutTest::Session->new($node);
$altering->query("BEGIN; $disable; $put (VALUES ('u3500')) AS s(u); $enable");
is($altering->query("SELECT optout.accepts('u3500'), optout.accepts('u3600'), shared_filter FROM optout.status"), 'f|t|loading', 'own version: answers');
is(progress(), $before, 'own version: nothing is begun again');
wait_until_ready($session);
is($altering->query("SELECT optout.accepts('u3500'), optout.accepts('u3600')"), 'f|t', 'own version: answers while the filter is ready');
$altering->query('COMMIT');
$altering->quit;
check('own version, committed');

#
# Databases that come and go: more than there are places for.  To make them all
# takes minutes, so one is given another number again and again, for which it is
# enough that all of it is on disk.
#
my $places = 256;
my $sql = '';
my $base = $node->data_dir . '/base';
my $status = 'SELECT shared_filter FROM optout.status';

$node->safe_psql('postgres', 'CREATE DATABASE template');
$node->safe_psql('template', q{CREATE EXTENSION optout; SELECT optout.enroll('{out,in}'::text[]); SELECT optout.opt_out('out')});
$node->safe_psql('postgres', 'CREATE DATABASE d TEMPLATE template OID = 100001');
for my $n (100001 .. 100002 + $places)
{
	my $next = $n + 1;

	$sql .= "\\c d\n$status;\nSELECT optout.accepts('out');\n\\c postgres\nCHECKPOINT;\n"
	  . "\\! mv $base/$n $base/$next\n"
	  . "SET allow_system_table_mods = on;\nUPDATE pg_database SET oid = $next WHERE oid = $n;\n";
}
my ($out, $err);
$node->psql('postgres', $sql, stdout => \$out, stderr => \$err, on_error_stop => 1);
is($err, '', 'databases come and go');
$node->safe_psql('postgres', 'DROP DATABASE d');
is($out, join("\n", ("ready\nf") x ($places + 2)), 'each has the filter');

# The same if they all stay.  (That takes too much of the disk, so that only the
# catalog says so.)
$node->safe_psql('postgres', qq{
	SET allow_system_table_mods = on;
	INSERT INTO pg_database SELECT (jsonb_populate_record(d, jsonb_build_object('oid', n, 'datname', 'gone ' || n, 'datallowconn', false))).*
	  FROM pg_database d, generate_series(100001, 100002 + $places) n WHERE d.datname = 'template'});
$node->safe_psql('postgres', 'CREATE DATABASE another TEMPLATE template');
$log_offset = -s $node->logfile;
my $another = OptoutTest::Session->new($node, dbname => 'another');
my $ask = q{SELECT optout.accepts('out'), optout.accepts('in')};
is($another->query("$ask; $status; $ask"), "f|t\nno room\nf|t", 'no room: said, and the answers are right');
is($node->safe_psql('another', "$ask; $status"), "f|t\nno room", 'no room: new session');
$another->query("SELECT optout.opt_out('in')");
is($another->query($ask), 'f|f', 'no room: opted out');
$log = slurp_file($node->logfile, $log_offset);
is(scalar(() = $log =~ /optout uses its table in database "another", because the shared filter already serves $places databases/g), 1, 'no room: said in the log, once');
unlike($log, qr/STATEMENT/, 'no room: without a statement');

# nobody takes a lock for each look-up
is($another->query(q{BEGIN; SELECT optout.accepts('out') FROM generate_series(1, 1000);
	SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'object'; COMMIT} =~ s/\n/ /r) =~ /(\d+)$/ ? $1 : '', '0', 'no room: no lock is left');
is($node->safe_psql('postgres', $status), 'ready', 'no room: others have theirs');

$node->safe_psql('postgres', qq{SET allow_system_table_mods = on; DELETE FROM pg_database WHERE datname LIKE 'gone %'});
is($another->query("$status; $ask"), "ready\nf|f", 'room again');
$another->quit;

$session->quit;
$node->stop;
done_testing();
