# ALTER EXTENSION ... UPDATE from every older version: the catalogs then say the same
# of the extension as after a new installation, what was there is there, and guards
# and open sessions go on.  Before the update, the older version's objects work with
# the new library.
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

# All that the catalogs say of the extension.
my $catalog = slurp_file("$FindBin::RealBin/catalog.sql");
sub catalog { my ($dbname) = @_; return [ split /\n/, $node->safe_psql($dbname, $catalog) ] }

# What is in one of them only.
sub differences
{
	my ($got, $expected) = @_;
	my %got = map { $_ => 1 } @$got;
	my %expected = map { $_ => 1 } @$expected;
	my @differences = ((map { "missing: $_" } grep { !$got{$_} } @$expected), (map { "added: $_" } grep { !$expected{$_} } @$got));

	return @differences;
}

# the columns of the oldest version, and what those that were added hold
my $contents = q{
	SELECT 'user', u::text FROM optout.product_user u
	UNION ALL SELECT 'period', ROW(organization, user_id, opted_out_at, opted_in_at, opted_out_by, opted_in_by, reason)::text FROM optout.opt_out_period
	UNION ALL SELECT 'ledger', l::text FROM optout.discard_ledger l
	UNION ALL SELECT 'authority', a::text FROM optout.authority a
	UNION ALL SELECT 'guarded', ROW(g.relation, g.user_id, g.organization, g.occurred_at, g.fires)::text FROM optout.guarded g
	UNION ALL SELECT 'list', ROW(organization, user_id, display_name, email, opted_out_at, opted_out_by, reason, client_may_still_track)::text FROM optout.opt_out_list
	UNION ALL SELECT 'users', ROW(organization, user_id, display_name, email, signed_in_at, opted_out)::text FROM optout.user_list
	UNION ALL SELECT 'history', ROW(organization, user_id, opted_out_at, opted_out_by, opted_in_at, opted_in_by, reason)::text FROM optout.opt_out_history
	UNION ALL SELECT 'discards', o::text FROM optout.discards o
	ORDER BY 1, 2};

# A dump of the older version, restored as doc/upgrading.md says.
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

my $added = q{
	SELECT count(*) FROM optout.opt_out_period WHERE num_nonnulls(alias_of, opted_out_actor, opted_in_actor, opted_in_reason) > 0;
	SELECT count(*) FROM optout.user_alias;
	SELECT DISTINCT aliases FROM optout.user_list UNION SELECT DISTINCT aliases FROM optout.opt_out_list};
my $answers = q{
	BEGIN;
	SELECT u, optout.accepts(u), optout.accepts(u, 'acme'), optout.is_opted_out(u, 'default', 'epoch'), optout.accepts(u, 'default', now())
	  FROM unnest('{alice,bob,carol,nobody}'::text[]) AS u;
	ROLLBACK};

# Routines and who may execute them; what is new comes after these.
my $routines = q{
	SELECT oid, proname, proacl FROM pg_proc WHERE pronamespace = 'optout'::regnamespace AND oid < %s ORDER BY oid};

# Functions whose symbols the older library has, too: what it does in them is right
# after the update as well.  Of all others a session that still has it gets an error.
my $symbols = q{SELECT DISTINCT prosrc FROM pg_proc WHERE pronamespace = 'optout'::regnamespace AND probin IS NOT NULL};
my $kept = join("\n", qw(optout_accepts_support optout_add_to_filter optout_command_progress
	optout_enroll optout_enroll_array optout_filter_statistics optout_grant_authority optout_guard
	optout_is_opted_out_support optout_load_progress optout_revoke_authority optout_sign_in optout_unguard));

my $fill = q{
	SELECT optout.enroll('{alice,bob,carol}'::text[]), optout.enroll('alice', 'acme', 'Alice', 'alice@example.org');
	SELECT optout.opt_out('{alice,bob}'::text[], reason => 'old'), optout.opt_in('bob'), optout.opt_out('alice', 'acme');
	SELECT optout.grant_authority('administrator', 'acme', 'administer');
	CREATE TABLE event (user_id text, org text);
	SELECT optout.guard('event', organization => 'org');
	INSERT INTO event VALUES ('alice', 'default'), ('bob', 'default'), ('alice', 'acme'), ('carol', 'acme');
	CREATE VIEW dashboard AS SELECT shared_filter FROM optout.status;
	CREATE VIEW people AS SELECT * FROM optout.opt_out_list;
	CREATE FUNCTION back(u text) RETURNS boolean LANGUAGE sql BEGIN ATOMIC SELECT optout.opt_in(u, 'acme'); END;
	CREATE VIEW back AS SELECT optout.opt_in('nobody');
	GRANT EXECUTE ON FUNCTION back TO administrator;
	DO $$
	DECLARE
		routine regprocedure;
	BEGIN
		FOR routine IN SELECT oid FROM pg_proc WHERE pronamespace = 'optout'::regnamespace
						  AND proname IN ('accepts', 'is_opted_out', 'opt_out', 'opt_in', 'forget', 'settle', 'verify') LOOP
			EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO asker', routine);
		END LOOP;
	END $$;
	GRANT SELECT ON dashboard TO administrator};

$node->safe_psql('postgres', 'CREATE DATABASE new; CREATE ROLE administrator; CREATE ROLE other; CREATE ROLE asker');
$node->safe_psql('new', 'CREATE EXTENSION optout');
$node->safe_psql('new', $fill);
my $expected_catalog = catalog('new');

for my $old (@old)
{
	my $dbname = "from $old";

	$node->safe_psql('postgres', qq{CREATE DATABASE "$dbname"});
	$node->safe_psql($dbname, qq{CREATE EXTENSION optout VERSION '$old'});
	$node->safe_psql($dbname, $fill);
	isnt(scalar(differences(catalog($dbname), $expected_catalog)), 0, "$old: the catalogs say something else before");
	my $session = OptoutTest::Session->new($node, dbname => $dbname);
	my @before = map { $session->query($_) } $contents, $answers;
	like($before[1], qr/^alice\|f\|f.*\nbob\|t\|t\|.*\ncarol\|t/, "$old: answers");
	is($session->query('SELECT shared_filter, optout.verify() FROM optout.status'), 'ready|0', "$old: filter");
	is($session->query('SET ROLE administrator; CALL optout.settle(); RESET ROLE'), '', "$old: settle() and authority");
	my $next = $node->safe_psql($dbname, q{SELECT max(oid)::bigint + 1 FROM pg_proc});
	my $granted = $node->safe_psql($dbname, sprintf($routines, $next));
	my %old_symbols = map { $_ => 1 } split(/\n/, $node->safe_psql($dbname, $symbols));
	my $settle = $session->query(q{SELECT 'optout.settle'::regproc::oid, (SELECT proacl FROM pg_proc WHERE oid = 'optout.settle'::regproc)});
	restore($dbname, $old);

	# until then administrators are granted and revoked what there is
	is($node->safe_psql($dbname, q{
			SELECT optout.grant_authority('other', 'acme', 'administer');
			SET ROLE other; SELECT optout.opt_in('alice', 'acme'), optout.opt_out('alice', 'acme', 'why'), optout.forget('nobody', 'acme'); RESET ROLE;
			SELECT optout.revoke_authority('other', 'acme', 'administer');
			SELECT has_function_privilege('other', 'optout.opt_out(text, text, text)', 'EXECUTE')}), "\nt|t|f\n\nf", "$old: authority");
	@before = map { $session->query($_) } $contents, $answers;
	# what only the session's memo knows, for the filter says that he may have been
	# out, and the cache that he is not
	my $then = $node->safe_psql($dbname, q{SELECT opted_out_at FROM optout.opt_out_history WHERE user_id = 'bob'});
	my $bob = qq{SELECT optout.is_opted_out('bob', 'default', '$then')};
	my $reader = OptoutTest::Session->new($node, dbname => $dbname);
	is($_->query("$bob; $bob"), "t\nt", "$old: the past, open session") for $session, $reader;

	$node->safe_psql($dbname, 'ALTER EXTENSION optout UPDATE');
	is($node->safe_psql($dbname, $added), "0\n0\n{}", "$old: updated, there are no aliases and actors");
	is_deeply([ differences(catalog($dbname), $expected_catalog) ], [], "$old: updated, the catalogs say what they do of a new installation");
	is_deeply([ map { $session->query($_) } $contents, $answers ], \@before, "$old: updated, nothing else has changed, open session");
	is_deeply([ map { $node->safe_psql($dbname, $_) } $contents, $answers ], \@before, "$old: updated, nothing else has changed, new session");
	is($session->query('SELECT shared_filter, optout.verify() FROM optout.status'), 'ready|0', "$old: updated, filter");
	is( $session->query(q{
			INSERT INTO event VALUES ('alice', 'acme'), ('carol', 'acme') RETURNING user_id;
			SET ROLE administrator; SELECT optout.opt_in('alice', 'acme'); SELECT shared_filter FROM dashboard; RESET ROLE;
			INSERT INTO event VALUES ('alice', 'acme') RETURNING user_id}),
		"carol\nt\nready\nalice", "$old: updated, guard and administrator go on");
	is($node->safe_psql($dbname, sprintf($routines, $next)), $granted, "$old: updated, everybody may execute what they could");
	is( join("\n", sort grep { $old_symbols{$_} } split(/\n/, $node->safe_psql($dbname, $symbols))),
		join("\n", grep { $old_symbols{$_} } split(/\n/, $kept)), "$old: updated, what the older library would still serve");
	is( $session->query(q{
			CREATE TABLE tracks (user_id text, device text);
			SELECT optout.guard('tracks', ARRAY['user_id', 'device']);
			INSERT INTO tracks VALUES ('alice', 'carol'), ('carol', 'alice'), ('carol', 'd') RETURNING device}),
		"\nd", "$old: updated, guard of two columns");
	is($session->query(q{SELECT 'optout.settle'::regproc::oid, (SELECT proacl FROM pg_proc WHERE oid = 'optout.settle'::regproc)}), $settle,
		"$old: updated, settle() is the same procedure with the same grants");
	is($session->query(q{SET ROLE administrator; CALL optout.settle(); CALL optout.settle('0'); RESET ROLE}), '', "$old: updated, with a timeout");
	is( $session->query(q{
			SET optout.actor = 'kim';
			SET ROLE administrator; SELECT optout.opt_out('alice', 'acme'), optout.link('alice', '{a1}', 'acme'), optout.link('{alice}'::text[], '{a2}', 'acme');
			SELECT optout.opt_out('alice', 'acme'), back('alice'), optout.unlink('{a2}', 'acme'), optout.opt_out('alice', 'acme');
			SELECT optout.opt_in('alice', 'acme', 'why');
			RESET ROLE; RESET optout.actor;
			SELECT optout.accepts('a1', 'acme', opted_out_at), opted_out_actor, opted_in_actor, opted_in_reason
			  FROM optout.opt_out_history WHERE organization = 'acme' ORDER BY opted_out_at DESC LIMIT 1;
			SELECT count(*) FROM people; SELECT optout.verify()}),
		"t|1|1\nf|t|1|t\nt\nf|kim|kim|why\n1\n0", "$old: updated, the administrator and what others built use what is new");

	# what the update granted is dumped as if somebody had granted it
	my ($dump, $dump_err);
	IPC::Run::run([ 'pg_dump', '-d', $node->connstr($dbname) ], '>', \$dump, '2>', \$dump_err) or die $dump_err;
	like($dump, qr/^GRANT ALL ON FUNCTION optout\.\Q$_\E\(.*TO administrator;$/m, "$old: updated, dumps grant $_") for 'link', 'unlink', 'opt_in';
	is($_->query($bob), 't', "$old: updated, the past, open session") for $session, $reader;
	$node->safe_psql($dbname, q{SELECT optout.forget('bob', force => true)});
	is($_->query($bob), 'f', "$old: updated, an open session learns what has changed since") for $session, $reader;
	$reader->quit;
	$session->quit;
	$node->safe_psql($dbname, 'SELECT optout.unguard(relation) FROM optout.guarded');
	$node->safe_psql($dbname, q{SELECT optout.revoke_authority('administrator', 'acme', 'administer'); DROP VIEW dashboard, people, back; DROP FUNCTION back; DROP EXTENSION optout});
	is($node->safe_psql($dbname, q{SELECT count(*) FROM pg_namespace WHERE nspname = 'optout'}), '0', "$old: updated, can be dropped");
}

$node->stop;
done_testing();
