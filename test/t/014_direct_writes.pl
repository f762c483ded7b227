# Rows that are written to the state table directly, in whatever shape: the trigger
# that makes them known to the filter sees them before the table's constraints and
# before their values are stored.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nautovacuum = off\n");

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll('known'), optout.opt_out('known')});

my $old = OptoutTest::Session->new($node);
my $insert = 'INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by)';
my $status = 'SELECT shared_filter, optout.verify() FROM optout.status';

# What accepts() says of a user, given by an SQL expression, with and without filter.
sub check
{
	my ($user, $accepted, $what, %params) = @_;
	my $organization = $params{organization} // 'NULL';
	my $ask = "SELECT optout.accepts(($user)::text, $organization), NOT optout.is_opted_out(($user)::text, $organization)";

	is($node->safe_psql('postgres', "SET optout.filter = off; $ask"), "$accepted|$accepted", "$what: table");
	is($old->query("$ask; $ask"), "$accepted|$accepted\n$accepted|$accepted", "$what: old session");
	is($node->safe_psql('postgres', $ask), "$accepted|$accepted", "$what: new session");
	is($old->query($status), 'ready|0', "$what: status");
}

check(q{'known'}, 'f', 'opted out');
check(q{'unknown'}, 't', 'not opted out');

#
# Rows that the table refuses
#
for my $row (
	[ q{NULL, 'x', now(), 'x'}, '23502', 'no organization' ], [ q{'default', NULL, now(), 'x'}, '23502', 'no user' ],
	[ q{NULL, NULL, NULL, NULL}, '23502', 'nothing' ], [ q{'', 'x', now(), 'x'}, '23514', 'empty organization' ],
	[ q{'*', 'x', now(), 'x'}, '23514', 'every organization' ], [ q{'default', '', now(), 'x'}, '23514', 'empty user' ],
	[ q{repeat('x', 1025), 'x', now(), 'x'}, '23514', 'long organization' ],
	[ q{'default', repeat('x', 1025), now(), 'x'}, '23514', 'long user' ],
	[ q{repeat('x', 1000000), repeat('x', 1000000), now(), 'x'}, '23514', 'huge organization and user' ],
	[ q{'default', 'known', now() - interval '1 day', 'x'}, '23505', 'second open period' ])
{
	my ($values, $sqlstate, $what) = @$row;

	like(errors_of($node, "$insert VALUES ($values)"), qr/ERROR:  $sqlstate:/, "refused: $what");
	like(errors_of($node, "COPY (SELECT $values) TO '@{[ $node->basedir ]}/row'; COPY optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by) FROM '@{[ $node->basedir ]}/row'"),
		qr/ERROR:  $sqlstate:/, "refused by COPY: $what");
	like(errors_of($node, "UPDATE optout.opt_out_period SET (organization, user_id, opted_out_at, opted_out_by) = ($values) WHERE user_id = 'known'"),
		qr/ERROR:  $sqlstate:/, "refused by UPDATE: $what")
	  unless $sqlstate eq '23505';
	is($old->query(q{SELECT optout.accepts('known')}), 'f', "refused: $what: server goes on");
}
check(q{'x'}, 't', 'refused');

#
# Long identifiers, and such as are compressed or stored out of line where they
# come from
#
for my $user (q{repeat('l', 1024)}, q{repeat('ü', 512)}, q{'o''brien'}, q{'名前'}, q{' '}, q{E'\t'})
{
	$node->safe_psql('postgres', "$insert VALUES ('default', $user, now(), 'x')");
	check($user, 'f', "user $user");
}
$node->safe_psql('postgres', "$insert VALUES (repeat('o', 1024), 'u', now(), 'x')");
check(q{'u'}, 'f', 'long organization', organization => q{repeat('o', 1024)});
check(q{'u'}, 't', 'long organization, nearly', organization => q{repeat('o', 1023)});
check(q{'u'}, 'f', 'long organization', organization => q{repeat('o', 1024)});

$node->safe_psql('postgres', q{
	CREATE TABLE compressed (u text COMPRESSION pglz, filler text);
	ALTER TABLE compressed ALTER filler SET STORAGE PLAIN;
	CREATE TABLE external (u text, filler text);
	ALTER TABLE external ALTER u SET STORAGE EXTERNAL, ALTER filler SET STORAGE PLAIN});
for my $table ('compressed', 'external')
{
	my $size = $table eq 'compressed' ? '< 100' : '= 1000';

	$node->safe_psql('postgres', qq{
		INSERT INTO $table VALUES (repeat('$_', 1000), repeat('x', 3000))}) for 'a' .. 'd';
	is($node->safe_psql('postgres', "SELECT count(*) FROM $table WHERE pg_column_size(u) $size"),
		4, "ids in table $table are");

	my ($first, $second, $third) = map { "repeat('$_', 1000)" } 'a' .. 'c';

	check($first, 't', "$table: before");
	$node->safe_psql('postgres', "$insert SELECT 'default', u, now(), 'x' FROM $table WHERE u = $first");
	check($first, 'f', "$table: INSERT ... SELECT");
	$node->safe_psql('postgres', "UPDATE optout.opt_out_period p SET user_id = t.u FROM $table t WHERE t.u = $second AND p.user_id = $first");
	check($second, 'f', "$table: UPDATE");
	check($first, 't', "$table: UPDATE, who was before");
	$node->safe_psql('postgres', qq{
		MERGE INTO optout.opt_out_period p USING (SELECT u FROM $table WHERE u = $third) t ON p.user_id = t.u
		 WHEN NOT MATCHED THEN INSERT (organization, user_id, opted_out_at, opted_out_by) VALUES ('default', t.u, now(), 'x')});
	check($third, 'f', "$table: MERGE");
	$node->safe_psql('postgres', qq{
		$insert SELECT 'default', u, now(), 'x' FROM $table
		    ON CONFLICT (organization, user_id) WHERE opted_in_at IS NULL DO UPDATE SET user_id = repeat('e', 1000)
		 WHERE optout.opt_out_period.user_id = $third});
	check($third, 't', "$table: ON CONFLICT");
	check(q{repeat('e', 1000)}, 'f', "$table: ON CONFLICT DO UPDATE");

	# as they are stored now
	$node->restart;
	$old->quit;
	$old = OptoutTest::Session->new($node);
	check($second, 'f', "$table: restart");
	check(q{repeat('d', 1000)}, 'f', "$table: restart");
	$node->safe_psql('postgres', q{DELETE FROM optout.opt_out_period WHERE user_id ~ '^(.)\1*$'});
	check($second, 't', "$table: deleted");
}

# one organization the same way
$node->safe_psql('postgres', "$insert SELECT u, 'in compressed', now(), 'x' FROM compressed");
check(q{'in compressed'}, 'f', 'compressed organization', organization => q{repeat('c', 1000)});
check(q{'in compressed'}, 't', 'another organization', organization => q{repeat('f', 1000)});
check(q{'in compressed'}, 'f', 'compressed organization from a table',
	organization => q{(SELECT u FROM compressed ORDER BY u LIMIT 1)});

#
# Another trigger that changes the row
#
$node->safe_psql('postgres', q{
	CREATE FUNCTION lower_id() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.user_id := lower(NEW.user_id); RETURN NEW; END'});
for my $name ('aaa', 'zzz')
{
	$node->safe_psql('postgres', qq{
		CREATE TRIGGER $name BEFORE INSERT OR UPDATE ON optout.opt_out_period FOR EACH ROW EXECUTE FUNCTION lower_id();
		$insert VALUES ('default', 'LOWER $name', now(), 'x')});
	check("'lower $name'", 'f', "trigger $name lowers ids");
	check("'LOWER $name'", 't', "trigger $name lowers ids: what was given");
	$node->safe_psql('postgres', "DROP TRIGGER $name ON optout.opt_out_period");
}

$old->quit;
$node->stop;
done_testing();
