# Settings of the session: session_replication_role does not get past the guard,
# optout.organization counts wherever it is set, even before the library is
# loaded, and the answers are the same in parallel workers and with JIT.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

# The library is to be loaded by the first call.
my $node = new_server('main', {}, "shared_preload_libraries = ''\n");

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(ARRAY['alice', 'bob', 'carol'], o) FROM unnest('{default,acme,globex}'::text[]) AS o;
	SELECT optout.opt_out('alice', 'default'), optout.opt_out('bob', 'acme'), optout.opt_out('carol', 'globex');
	CREATE TABLE guarded (user_id text);
	SELECT optout.guard('guarded');
	CREATE ROLE ingest LOGIN;
	GRANT ALL ON guarded TO ingest;
	GRANT EXECUTE ON FUNCTION optout.accepts(text, text, timestamptz) TO ingest});

my $discarded = q{
	SELECT string_agg(u, ' ') FROM unnest('{alice,bob,carol}'::text[]) AS u WHERE NOT optout.accepts(u);
	INSERT INTO guarded VALUES ('alice'), ('bob'), ('carol');
	SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM guarded;
	DELETE FROM guarded;
	SHOW optout.organization};
my %discarded_in = (
	default => "alice\nbob carol\ndefault",
	acme => "bob\nalice carol\nacme",
	globex => "carol\nalice bob\nglobex");

#
# session_replication_role
#
for my $role ('origin', 'replica', 'local')
{
	is($node->safe_psql('postgres', "SET session_replication_role = $role; $discarded"),
		$discarded_in{default}, "session_replication_role = $role");
}

#
# optout.organization
#
sub check_organization
{
	my ($organization, $what) = @_;

	is( $node->safe_psql('postgres', $discarded, extra_params => [ '-U', 'ingest' ]),
		$discarded_in{$organization}, $what);
}

check_organization('default', 'organization: default');
{
	local $ENV{PGOPTIONS} = '-c optout.organization=acme';
	check_organization('acme', 'organization: PGOPTIONS');
}
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET optout.organization = acme');
check_organization('acme', 'organization: ALTER DATABASE');
$node->safe_psql('postgres', 'ALTER ROLE ingest SET optout.organization = globex');
check_organization('globex', 'organization: ALTER ROLE goes before ALTER DATABASE');
{
	local $ENV{PGOPTIONS} = '-c optout.organization=default';
	check_organization('default', 'organization: PGOPTIONS goes before ALTER ROLE');
}
$node->safe_psql('postgres', q{
	ALTER ROLE ingest RESET optout.organization;
	ALTER ROLE ingest IN DATABASE postgres SET optout.organization = globex});
check_organization('globex', 'organization: ALTER ROLE IN DATABASE');
$node->safe_psql('postgres', q{
	ALTER ROLE ingest IN DATABASE postgres RESET ALL; ALTER DATABASE postgres RESET ALL});

# set in the same session, before and after the library is loaded
is( $node->safe_psql('postgres', "SET optout.organization = acme; $discarded; SET optout.organization = globex; $discarded; RESET ALL; $discarded"),
	"$discarded_in{acme}\n$discarded_in{globex}\n$discarded_in{default}",
	'organization: SET');
is( $node->safe_psql('postgres', "BEGIN; SET LOCAL optout.organization = acme; $discarded; ROLLBACK; $discarded"),
	"$discarded_in{acme}\n$discarded_in{default}",
	'organization: SET LOCAL');
is( $node->safe_psql('postgres', q{
		ALTER FUNCTION optout.accepts(text, text, timestamptz) SET optout.organization = globex;
		SELECT optout.accepts('alice'), optout.accepts('carol');
		ALTER FUNCTION optout.accepts(text, text, timestamptz) RESET ALL}),
	't|f', 'organization: SET of a function');

# A value that cannot be the name of an organization is refused where the library is loaded, and
# otherwise gives way to the default when it is.
my %invalid = (q{''} => '', q{'*'} => '*', q{repeat('x', 1025)} => 'x' x 1025);
for my $invalid (sort keys %invalid)
{
	my $value = $invalid{$invalid};
	my $message = qr/invalid value for parameter "optout.organization": "\Q$value\E"/;

	like( errors_of($node, qq{LOAD 'optout'; SET optout.organization = '$value'}),
		qr/ERROR:  22023: $message\nDETAIL:  (This cannot be the name of an organization|The name of an organization has at most 1024 bytes)\./,
		"SET to $invalid is refused");
	like( errors_of($node, qq{LOAD 'optout'; ALTER ROLE ingest SET optout.organization = '$value'}),
		qr/ERROR:  22023: $message/, "ALTER ROLE SET to $invalid is refused");

	$node->safe_psql('postgres', "ALTER ROLE ingest SET optout.organization = '$value'");
	my ($stdout, $stderr);
	$node->psql('postgres', $discarded, extra_params => [ '-U', 'ingest' ],
		stdout => \$stdout, stderr => \$stderr);
	like($stderr, qr/WARNING:  $message/, "$invalid before the library is loaded: warning");
	is($stdout, $discarded_in{default}, "$invalid before the library is loaded: default");
	$node->safe_psql('postgres', 'ALTER ROLE ingest RESET optout.organization');

	(my $option = $value) =~ s/ /\\ /g;
	local $ENV{PGOPTIONS} = "-c optout.organization=$option";
	$node->psql('postgres', $discarded, stdout => \$stdout, stderr => \$stderr);
	like($stderr, qr/WARNING:  $message/, "$invalid by PGOPTIONS: warning");
	is($stdout, $discarded_in{default}, "$invalid by PGOPTIONS: default");
}
is( $node->safe_psql('postgres', q{
		LOAD 'optout';
		SELECT set_config('optout.organization', repeat('x', 1024), false) = repeat('x', 1024);
		SELECT optout.accepts('alice')}),
	"t\nt", '1024 bytes will do');
like( errors_of($node, q{LOAD 'optout'; SET optout.organisation = 'acme'}),
	qr/ERROR:  42602: invalid configuration parameter name "optout.organisation"/,
	'a misspelt setting is refused');

#
# Parallel query
#
my $force_parallel = $node->pg_version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode';
my $parallel = q{
	SET max_parallel_workers_per_gather = 2;
	SET parallel_setup_cost = 0;
	SET parallel_tuple_cost = 0;
	SET min_parallel_table_scan_size = 0;
	SET parallel_leader_participation = off};
my $serial = 'SET max_parallel_workers_per_gather = 0';
my $explain = 'EXPLAIN (ANALYZE, TIMING OFF)';

$node->safe_psql('postgres', q{
	CREATE TABLE event (event_id int, user_id text) WITH (parallel_workers = 2);
	INSERT INTO event SELECT n, (ARRAY['alice', 'bob', 'carol', 'dave'])[n % 4 + 1] FROM generate_series(1, 2000) AS n;
	ANALYZE event});

for my $settings ('', 'SET optout.organization = acme;', q{SET optout.organization = acme; SELECT optout.accepts('alice');},
	q{SELECT optout.opt_out('dave'), optout.opt_in('alice');})
{
	my $what = $settings eq '' ? 'is_opted_out' : "is_opted_out after $settings";
	my $query = 'SELECT user_id, count(*) FROM event WHERE optout.is_opted_out(user_id) GROUP BY user_id ORDER BY user_id';
	my $begin = "SELECT optout.enroll('dave'); BEGIN; $settings";
	my $expected = $node->safe_psql('postgres', "$begin $serial; $query; ROLLBACK");

	like( $node->safe_psql('postgres', "$begin $parallel; $explain $query; ROLLBACK"),
		qr/Workers Launched: 2.*Filter: optout\.is_opted_out/s, "$what runs in workers");
	is($node->safe_psql('postgres', "$begin $parallel; $query; ROLLBACK"),
		$expected, "$what: same answer from workers");
	is($node->safe_psql('postgres', "$begin SET $force_parallel = on; $query; ROLLBACK"),
		$expected, "$what: same answer with $force_parallel");
	like($expected, $settings =~ /dave/ ? qr/^dave\|500$/m : $settings =~ /acme/ ? qr/^bob\|500$/m : qr/^alice\|500$/m,
		"$what: and the right one");
}

# accepts() does not, for it is to see what is committed after the query began.
for my $mode ($parallel, "SET $force_parallel = on")
{
	my $query = 'SELECT user_id, count(*) FROM event WHERE optout.accepts(user_id) GROUP BY user_id ORDER BY user_id';

	unlike($node->safe_psql('postgres', "$mode; $explain $query"), qr/Gather|Workers/, 'accepts runs in no worker');
	is($node->safe_psql('postgres', "$mode; $query"), "bob|500\ncarol|500\ndave|500", 'accepts answers all the same');
}

#
# JIT
#
SKIP:
{
	skip 'server has no JIT', 4
	  unless $node->safe_psql('postgres', 'SELECT pg_jit_available()') eq 't';

	my $jit = 'SET jit = on; SET jit_above_cost = 0; SET jit_inline_above_cost = 0; SET jit_optimize_above_cost = 0';

	for my $condition ('optout.accepts(user_id)', 'NOT optout.is_opted_out(user_id, NULL, now())')
	{
		my $query = "SELECT user_id, count(*) FROM event WHERE $condition GROUP BY user_id ORDER BY user_id";

		like($node->safe_psql('postgres', "$jit; $serial; $explain $query"), qr/JIT:/, "$condition: is compiled");
		is($node->safe_psql('postgres', "$jit; $query"), "bob|500\ncarol|500\ndave|500", "$condition: answers with JIT");
	}
}

$node->stop;
done_testing();
