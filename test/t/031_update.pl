# ALTER EXTENSION ... UPDATE from every older version: the schema is that of a new
# installation, what was there is there, and guards and open sessions go on.  Before
# the update, the older version's objects work with the new library.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {}, "shared_preload_libraries = 'optout'");
my @old = sort map { /optout--(.*)--.*\.sql$/ ? $1 : () } glob("$FindBin::RealBin/../../sql/optout--*--*.sql");

cmp_ok(scalar(@old), '>', 0, 'there are versions to update from');

# All of the extension's definitions, privileges and comments.
sub schema
{
	my ($dbname) = @_;
	my ($out, $err);

	IPC::Run::run([ 'pg_dump', '--schema-only', '--binary-upgrade', '--exclude-schema=public', '-d', $node->connstr($dbname) ], '>', \$out, '2>', \$err)
	  or die $err;

	# OIDs and transactions are each database's own, as are the order that OIDs bring
	# about and a key that each dump makes
	$out =~ s/^SELECT pg_catalog\.binary_upgrade_set_next_.*//mg;
	$out =~ s/\b\d{5,}\b/.../g;
	$out =~ s/(relfrozenxid|relminmxid) = '\d+'/$1/g;
	$out =~ s/^\\(un)?restrict .*//mg;
	my @parts = split /\n--\n-- (?=Name: )/, $out;
	return [ sort @parts ];
}

# What is in one of them only.
sub differences
{
	my ($got, $expected) = @_;
	my %got = map { $_ => 1 } @$got;
	my %expected = map { $_ => 1 } @$expected;
	my @differences = ((map { "missing: $_" } grep { !$got{$_} } @$expected), (map { "added: $_" } grep { !$expected{$_} } @$got));

	return @differences;
}

my $contents = q{
	SELECT 'user', u::text FROM optout.product_user u
	UNION ALL SELECT 'period', p::text FROM optout.opt_out_period p
	UNION ALL SELECT 'ledger', l::text FROM optout.discard_ledger l
	UNION ALL SELECT 'authority', a::text FROM optout.authority a
	UNION ALL SELECT 'guarded', ROW(g.relation, g.user_id, g.organization, g.occurred_at, g.fires)::text FROM optout.guarded g
	UNION ALL SELECT 'list', o::text FROM optout.opt_out_list o
	UNION ALL SELECT 'users', o::text FROM optout.user_list o
	UNION ALL SELECT 'history', o::text FROM optout.opt_out_history o
	UNION ALL SELECT 'discards', o::text FROM optout.discards o
	ORDER BY 1, 2};

# A dump of the older version, restored as README says.
sub restore
{
	my ($dbname, $old) = @_;
	my $dump = $node->basedir . '/dump';
	my $restored = "restored $old";

	$node->safe_psql('postgres', qq{CREATE DATABASE "$restored"});
	$node->safe_psql($restored, qq{CREATE EXTENSION optout VERSION '$old'});
	$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr($dbname) ], "$old: dumped");
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr($restored), $dump ], "$old: restored");
	$node->safe_psql($restored, 'ALTER EXTENSION optout UPDATE');
	is($node->safe_psql($restored, $contents), $node->safe_psql($dbname, $contents), "$old: restored and updated, nothing is lost");
	is($node->safe_psql($restored, q{SET ROLE administrator; CALL optout.settle('0'); SELECT optout.opt_in('alice', 'acme')}), 't',
		"$old: restored and updated, the administrator may do what they could");
}

my $answers = q{
	BEGIN;
	SELECT u, optout.accepts(u), optout.accepts(u, 'acme'), optout.is_opted_out(u, 'default', 'epoch'), optout.accepts(u, 'default', now())
	  FROM unnest('{alice,bob,carol,nobody}'::text[]) AS u;
	ROLLBACK};

my $fill = q{
	SELECT optout.enroll('{alice,bob,carol}'::text[]), optout.enroll('alice', 'acme', 'Alice', 'alice@example.org');
	SELECT optout.opt_out('{alice,bob}'::text[], reason => 'old'), optout.opt_in('bob'), optout.opt_out('alice', 'acme');
	SELECT optout.grant_authority('administrator', 'acme', 'administer');
	CREATE TABLE event (user_id text, org text);
	SELECT optout.guard('event', organization => 'org');
	INSERT INTO event VALUES ('alice', 'default'), ('bob', 'default'), ('alice', 'acme'), ('carol', 'acme');
	CREATE VIEW dashboard AS SELECT shared_filter FROM optout.status;
	GRANT SELECT ON dashboard TO administrator};

$node->safe_psql('postgres', 'CREATE DATABASE new; CREATE ROLE administrator');
$node->safe_psql('new', 'CREATE EXTENSION optout');
$node->safe_psql('new', $fill);
my $expected_schema = schema('new');

for my $old (@old)
{
	my $dbname = "from $old";

	$node->safe_psql('postgres', qq{CREATE DATABASE "$dbname"});
	$node->safe_psql($dbname, qq{CREATE EXTENSION optout VERSION '$old'});
	$node->safe_psql($dbname, $fill);
	isnt(scalar(differences(schema($dbname), $expected_schema)), 0, "$old: is another schema before");
	my $session = OptoutTest::Session->new($node, dbname => $dbname);
	my @before = map { $session->query($_) } $contents, $answers;
	like($before[1], qr/^alice\|f\|f.*\nbob\|t\|t\|.*\ncarol\|t/, "$old: answers");
	is($session->query('SELECT shared_filter, optout.verify() FROM optout.status'), 'ready|0', "$old: filter");
	is($session->query('SET ROLE administrator; CALL optout.settle(); RESET ROLE'), '', "$old: settle() and authority");
	my $settle = $session->query(q{SELECT 'optout.settle'::regproc::oid, (SELECT proacl FROM pg_proc WHERE oid = 'optout.settle'::regproc)});
	restore($dbname, $old);

	$node->safe_psql($dbname, 'ALTER EXTENSION optout UPDATE');
	is_deeply([ differences(schema($dbname), $expected_schema) ], [], "$old: updated, the schema is that of a new installation");
	is_deeply([ map { $session->query($_) } $contents, $answers ], \@before, "$old: updated, nothing else has changed, open session");
	is_deeply([ map { $node->safe_psql($dbname, $_) } $contents, $answers ], \@before, "$old: updated, nothing else has changed, new session");
	is($session->query('SELECT shared_filter, optout.verify() FROM optout.status'), 'ready|0', "$old: updated, filter");
	is( $session->query(q{
			INSERT INTO event VALUES ('alice', 'acme'), ('carol', 'acme') RETURNING user_id;
			SET ROLE administrator; SELECT optout.opt_in('alice', 'acme'); SELECT shared_filter FROM dashboard; RESET ROLE;
			INSERT INTO event VALUES ('alice', 'acme') RETURNING user_id}),
		"carol\nt\nready\nalice", "$old: updated, guard and administrator go on");
	isnt($session->query(q{SELECT prosrc FROM pg_proc WHERE oid = 'optout.discard_opted_out()'::regprocedure}), 'optout_discard_opted_out',
		"$old: updated, the library of 1.1 would not serve guards that it does not understand");
	is( $session->query(q{
			CREATE TABLE tracks (user_id text, device text);
			SELECT optout.guard('tracks', ARRAY['user_id', 'device']);
			INSERT INTO tracks VALUES ('alice', 'carol'), ('carol', 'alice'), ('carol', 'd') RETURNING device}),
		"\nd", "$old: updated, guard of two columns");
	is($session->query(q{SELECT 'optout.settle'::regproc::oid, (SELECT proacl FROM pg_proc WHERE oid = 'optout.settle'::regproc)}), $settle,
		"$old: updated, settle() is the same procedure with the same grants");
	is($session->query(q{SET ROLE administrator; CALL optout.settle(); CALL optout.settle('0'); RESET ROLE}), '', "$old: updated, with a timeout");
	$session->quit;
	$node->safe_psql($dbname, 'SELECT optout.unguard(relation) FROM optout.guarded');
	$node->safe_psql($dbname, q{SELECT optout.revoke_authority('administrator', 'acme', 'administer'); DROP VIEW dashboard; DROP EXTENSION optout});
	is($node->safe_psql($dbname, q{SELECT count(*) FROM pg_namespace WHERE nspname = 'optout'}), '0', "$old: updated, can be dropped");
}

$node->stop;
done_testing();
