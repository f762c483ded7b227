# Dump and restore, and CREATE DATABASE ... TEMPLATE, lose nothing: the tables
# are the same, the filter answers the same, the guards guard the same columns,
# and administrators have the same rights.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('source');
my $other = new_server('target');
my $dir = $node->basedir;

my $event_tables = q{
	CREATE TABLE event (event_id bigint PRIMARY KEY, user_id text, what text);
	SELECT optout.guard('event');
	SELECT optout.guard_view('event', '"Event_in"');

	CREATE TABLE parted (org text, at timestamptz, uid text, what text) PARTITION BY LIST (what);
	CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
	CREATE TABLE parted_b (what text, dropped int, uid text, at timestamptz, org text);
	ALTER TABLE parted_b DROP COLUMN dropped;
	SELECT optout.guard('parted', 'uid', 'org', 'at');
	ALTER TABLE parted ATTACH PARTITION parted_b FOR VALUES IN ('b');

	CREATE SCHEMA "Odd ""Schema""";
	CREATE TABLE "Odd ""Schema"""."Event's" ("At" timestamptz, "Org'n" text, "User ""Id""" text);
	SELECT optout.guard('"Odd ""Schema"""."Event''s"', 'User "Id"', organization => 'Org''n');

	CREATE TABLE renamed (user_id text, old_org text, new_id text);
	SELECT optout.guard('renamed', organization => 'old_org');
	ALTER TABLE renamed RENAME COLUMN user_id TO old_id;
	ALTER TABLE renamed RENAME COLUMN new_id TO user_id;
	ALTER TABLE renamed RENAME COLUMN old_org TO org;

	CREATE TABLE document (n int, device text, at timestamp, doc json);
	SELECT optout.guard('document', ARRAY['device', '$.user."it''s \\"id"'], NULL, 'at', 'doc', 'Europe/Berlin', 'o''brien & söhne');

	CREATE SCHEMA "wH";
	SELECT optout.guard_schema('"wH"', ARRAY['user_id', 'Device', '$.u'], NULL, 'at', 'data', 'UTC', 'acme');
	CREATE TABLE "wH".made (n int PRIMARY KEY, user_id text UNIQUE, at timestamp CHECK (at > '2000-01-01'));
	CREATE TABLE "wH".doc (n int PRIMARY KEY REFERENCES "wH".made, "Device" text, data jsonb);
	CREATE TABLE "wH".by_hand (n int PRIMARY KEY, user_id text);
	SELECT optout.guard('"wH".by_hand');
	CREATE TABLE "wH".parted (k int, user_id text) PARTITION BY LIST (k);
	CREATE TABLE "wH".parted_1 PARTITION OF "wH".parted FOR VALUES IN (1);
	CREATE TABLE "wH".parted_2 (LIKE "wH".parted);
	ALTER TABLE "wH".parted ATTACH PARTITION "wH".parted_2 FOR VALUES IN (2);};

# What there is to lose.  Events come first, so that there are some of users who
# were opted out later.
$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', qq{
	CREATE EXTENSION optout;
	CREATE ROLE "acme's Admin";
	CREATE ROLE reader;
	CREATE ROLE everywhere;
	CREATE ROLE gone;
	CREATE ROLE ingest;
	$event_tables} . q{
	CREATE TABLE person (organization text, user_id text);
	INSERT INTO person
	SELECT o, u
	  FROM unnest(ARRAY['default', 'acme', 'o''brien & söhne', 'with space', '"quoted"', E'tab\there']) AS o,
		   unnest(ARRAY['alice', 'bob', 'it''s', 'back\slash', ' leading', 'trailing ', '"', '名前', 'ü',
						E'new\nline', E'tab\t', '\N', '\.', '42', '550e8400-e29b-41d4-a716-446655440000', '*']) AS u;

	INSERT INTO event SELECT row_number() OVER (), user_id, 'old' FROM person WHERE organization = 'default';
	INSERT INTO parted SELECT organization, now(), user_id, x FROM person, (VALUES ('a'), ('b')) AS x (x);
	INSERT INTO "wH".parted SELECT x, user_id FROM person, (VALUES (1), (2)) AS x (x) WHERE organization = 'acme';

	SELECT optout.enroll(array_agg(user_id), organization) FROM person GROUP BY organization;
	SELECT optout.enroll('bob', 'acme', 'Bob "the" Builder', 'bob@example.org');
	SELECT optout.sign_in('alice', 'acme');
	SELECT optout.opt_out(array_agg(user_id), organization, E'it''s a "reason"\nof 2 lines')
	  FROM person WHERE user_id NOT IN ('bob', '42') GROUP BY organization;
	SET optout.actor = E'Kim "K"\n O''Brien';
	SELECT optout.opt_in(ARRAY['alice', '"'], 'acme', E'a\treason');
	SELECT optout.opt_out('alice', 'acme');
	DELETE FROM optout.product_user WHERE organization = 'with space' AND user_id = 'alice';
	INSERT INTO optout.discard_ledger VALUES
		('acme', '2026-05-03 10:00+00', 1, 12), ('acme', '2026-05-03 10:00+00', 2, 9223372036854775807),
		('with space', '2026-05-03 11:00+00', 1, 7);
	INSERT INTO optout.purge_ledger VALUES
		('2026-05-03 10:00:00.123456+00', 'acme''s Admin', 'o''brien & söhne', '"Odd ""Schema"""."Event''s"', 9223372036854775807),
		('2026-05-03 10:00:00.123456+00', 'acme''s Admin', 'o''brien & söhne', 'public.event', 0);

	SELECT optout.grant_authority('"acme''s Admin"', 'acme', 'administer');
	SELECT optout.grant_authority('reader', 'o''brien & söhne', 'read');
	SELECT optout.grant_authority('everywhere', '*', 'administer');
	SELECT optout.grant_authority('gone', 'acme', 'read');
	GRANT EXECUTE ON FUNCTION optout.accepts(text, text, timestamptz) TO ingest;
	GRANT SELECT ON optout.product_user TO reader;
	DROP ROLE gone});

# The source is its own yardstick; that it is a good one is tested here.
my $dangling = $node->safe_psql('source',
	'SELECT count(*) FROM optout.authority WHERE role NOT IN (SELECT oid FROM pg_roles)');
is($dangling, 1, 'one authority is of a role that was dropped');

my %contents = (
	product_user => 'SELECT * FROM optout.product_user ORDER BY organization, user_id',
	opt_out_period => 'SELECT * FROM optout.opt_out_period ORDER BY organization, user_id, opted_out_at',
	# not what the test itself discards while it asks the filter
	discard_ledger => q{SELECT * FROM optout.discard_ledger WHERE hour < '2026-06-01' ORDER BY organization, hour, slot},
	guard_rule => 'SELECT * FROM optout.guard_rule ORDER BY schema',
	purge_ledger => 'SELECT * FROM optout.purge_ledger ORDER BY purged_at, relation',
	authority => q{
		SELECT organization, role::text, privilege FROM optout.authority
		 WHERE role IN (SELECT oid FROM pg_roles) ORDER BY organization, role::text, privilege});

my $answers = q{
	SELECT p.organization, p.user_id, optout.accepts(p.user_id, p.organization),
		   optout.accepts(p.user_id, p.organization, h.at), optout.is_opted_out(p.user_id, p.organization)
	  FROM (SELECT organization, user_id FROM optout.product_user
			UNION SELECT organization, user_id FROM optout.opt_out_period
			UNION VALUES ('acme', 'nobody'), ('nowhere', 'alice')) AS p
		   LEFT JOIN (SELECT organization, user_id, min(opted_out_at) AS at
						FROM optout.opt_out_period GROUP BY 1, 2) AS h USING (organization, user_id)
	 ORDER BY 1, 2};

my $guards = 'SELECT * FROM optout.guarded ORDER BY relation::text';
my $all_guards_fire = q{
	SELECT count(*), bool_and(tgenabled = 'A') FROM pg_trigger WHERE tgfoid = 'optout.discard_opted_out'::regproc};

my $privileges = q{
	SELECT o.name, a.grantor::regrole, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
		   a.privilege_type, a.is_grantable
	  FROM (SELECT oid::regprocedure::text, proacl FROM pg_proc WHERE pronamespace = 'optout'::regnamespace
			UNION ALL
			SELECT oid::regclass::text, relacl FROM pg_class WHERE relnamespace = 'optout'::regnamespace
			UNION ALL
			SELECT 'schema', nspacl FROM pg_namespace WHERE nspname = 'optout') AS o (name, acl),
		   aclexplode(o.acl) AS a
	 ORDER BY 1, 2, 3, 4};

my %expected = map { $_ => $node->safe_psql('source', $contents{$_}) } keys %contents;
my $expected_answers = $node->safe_psql('source', $answers);
my $expected_guards = $node->safe_psql('source', $guards);
my $expected_privileges = $node->safe_psql('source', $privileges);
my $events = q{
	SELECT 'event', event_id::text, user_id, what FROM event
	UNION ALL SELECT 'parted', org, uid, what FROM parted
	UNION ALL SELECT 'ruled', NULL, user_id, k::text FROM "wH".parted ORDER BY 1, 2, 3, 4};
my $expected_events = $node->safe_psql('source', $events);

is($node->safe_psql('source', q{
		SELECT (SELECT count(*) FROM optout.product_user), (SELECT count(*) FROM optout.opt_out_period),
			   (SELECT count(*) FROM optout.opt_out_list)}),
	'95|85|83', 'directory, periods and open periods of the source');
is( $expected_guards,
	join("\n",
		'"Odd ""Schema"""."Event\'s"|User "Id"|Org\'n||always|{"User \"Id\""}||||f',
		'"wH".by_hand|user_id|||always|{user_id}||||f',
		'"wH".doc||||always|{Device,$.u}|data|UTC|acme|t',
		'"wH".made|user_id||at|always|{user_id}||UTC|acme|t',
		'"wH".parted|user_id|||always|{user_id}||UTC|acme|t',
		q(document|||at|always|{device,"$.user.\"it's \\\\\"id\""}|doc|Europe/Berlin|o'brien & söhne|f),
		'event|user_id|||always|{user_id}||||f',
		'parted|uid|org|at|always|{uid}||||f',
		'renamed|old_id|org||always|{old_id}||||f'),
	'guards of the source');
is($node->safe_psql('source', $all_guards_fire), '13|t', 'guards of partitions too');

# Every guarded table is offered one event of an opted-out user and one of
# somebody else, on every path; the latter alone must be stored.
sub check_guards
{
	my ($server, $dbname, $what) = @_;

	is( $server->safe_psql(
			$dbname, q{
		BEGIN;
		DELETE FROM event;
		TRUNCATE parted, "Odd ""Schema"""."Event's", renamed, document, "wH".made, "wH".doc, "wH".by_hand, "wH".parted;

		INSERT INTO event VALUES (1, 'alice', 'INSERT'), (2, 'bob', 'INSERT');
		INSERT INTO event VALUES (2, 'alice', 'conflict') ON CONFLICT (event_id) DO UPDATE SET what = EXCLUDED.what;
		INSERT INTO event VALUES (3, 'nobody', 'UPDATE');
		UPDATE event SET user_id = 'alice' WHERE event_id = 3;
		MERGE INTO event e USING (VALUES (4, 'alice'), (5, 'bob')) AS s (id, u) ON e.event_id = s.id
			WHEN NOT MATCHED THEN INSERT VALUES (id, u, 'MERGE');
		COPY event FROM STDIN;
6	alice	COPY
7	bob	COPY
\.
		WITH i AS (INSERT INTO "Event_in" VALUES (10, 'alice', 'view'), (11, 'bob', 'view') RETURNING event_id) SELECT sum(event_id) FROM i;
		SET LOCAL session_replication_role = replica;
		INSERT INTO event VALUES (8, 'alice', 'replica'), (9, 'bob', 'replica');
		RESET session_replication_role;

		INSERT INTO parted SELECT 'acme', NULL, u, x
		  FROM (VALUES ('alice'), ('bob'), ('"')) AS u (u), (VALUES ('a'), ('b')) AS x (x);
		INSERT INTO parted_b (org, uid, what) VALUES ('acme', 'alice', 'b'), ('acme', 'bob', 'b');
		INSERT INTO parted_b (org, uid, what, at)
		SELECT organization, user_id, 'b', opted_out_at FROM optout.opt_out_period WHERE opted_in_at IS NOT NULL;
		INSERT INTO "Odd ""Schema"""."Event's" VALUES
			(NULL, 'acme', 'alice'), (NULL, 'acme', 'bob'), (NULL, 'nowhere', 'alice'), (NULL, 'with space', 'it''s');
		INSERT INTO renamed (old_id, org, user_id) VALUES
			('alice', 'acme', 'bob'), ('bob', 'acme', 'alice'), ('名前', 'default', 'bob');

		INSERT INTO document VALUES (1, 'bob', NULL, '{"user": {"it''s \"id": "alice", "it''s": "bob"}}'), (2, 'alice', NULL, NULL),
			(3, 'bob', NULL, '{"user": {"it''s": "alice"}}');

		INSERT INTO "wH".made VALUES (1, 'alice'), (2, 'bob'), (3, 'nobody');
		INSERT INTO "wH".doc VALUES (2, 'alice', NULL), (2, NULL, '{"u": "alice"}'), (3, 'bob', '{"u": "bob"}');
		INSERT INTO "wH".by_hand VALUES (1, 'alice'), (2, 'bob');
		INSERT INTO "wH".parted VALUES (1, 'alice'), (2, 'alice'), (1, 'bob'), (2, 'bob');
		-- and tables to come
		CREATE TABLE "wH".more AS SELECT u AS user_id FROM unnest('{alice,bob}'::text[]) u;
		CREATE TABLE "wH".parted_3 (LIKE "wH".parted);
		INSERT INTO "wH".parted_3 VALUES (3, 'alice'), (3, 'bob');
		ALTER TABLE "wH".parted ATTACH PARTITION "wH".parted_3 FOR VALUES IN (3);
		INSERT INTO "wH".parted VALUES (3, 'alice');

		SELECT string_agg(event_id || ' ' || user_id || ' ' || what, ', ' ORDER BY event_id) FROM event;
		SELECT string_agg(uid || ' ' || what, ', ' ORDER BY uid, what) FROM parted;
		SELECT string_agg("Org'n" || ' ' || "User ""Id""", ', ' ORDER BY 1) FROM "Odd ""Schema"""."Event's";
		SELECT string_agg(old_id || ' ' || org, ', ') FROM renamed;
		SELECT string_agg(n::text, ' ') FROM document;
		SELECT (SELECT string_agg(user_id, ' ' ORDER BY n) FROM "wH".made), (SELECT string_agg(n::text, ' ') FROM "wH".doc),
			   (SELECT string_agg(user_id, ' ') FROM "wH".by_hand), (SELECT string_agg(k || user_id, ' ' ORDER BY k) FROM "wH".parted),
			   (SELECT string_agg(user_id, ' ') FROM "wH".more);
		ROLLBACK}),
		join("\n",
			'21',
			'2 bob INSERT, 3 nobody UPDATE, 5 bob MERGE, 7 bob COPY, 9 bob replica, 11 bob view',
			'" a, " b, bob a, bob b, bob b',
			'acme bob, nowhere alice',
			'bob acme',
			'3',
			'bob nobody|3|bob|1bob 2bob 3bob|bob'),
		"$what: guards discard");
}

sub check_restored
{
	my ($server, $dbname, $what, %but) = @_;

	is($server->safe_psql($dbname, $contents{$_}), $expected{$_}, "$what: $_")
	  for sort keys %contents;
	is( $server->safe_psql($dbname,
			'SELECT count(*) FROM optout.authority WHERE role NOT IN (SELECT oid FROM pg_roles)'),
		$but{dangling} // 0,
		"$what: authority of a dropped role");
	is($server->safe_psql($dbname, $answers), $expected_answers, "$what: answers of the filter");
	is($server->safe_psql($dbname, $events), $but{events} // $expected_events, "$what: events");

	if (defined $but{fires})
	{
		# The view tells, and calling guard() again repairs it.  In the form that
		# knows one column of ids it must not make less of a guard of several.
		is( $server->safe_psql($dbname, q{
				SELECT relation, fires FROM optout.guarded ORDER BY relation::text}),
			join("\n", qq{"Odd ""Schema"""."Event's"|$but{fires}}, (map { qq{"wH".$_|$but{fires}} } 'by_hand', 'doc', 'made'), qq{"wH".parted|always},
				(map { qq{"wH".$_|$but{fires}} } 'parted_1', 'parted_2'), "document|$but{fires}", "event|$but{fires}",
				"parted|always", "parted_a|$but{fires}", "parted_b|$but{fires}", "renamed|$but{fires}"),
			"$what: view tells of altered guards");
		my $again = q{
			SELECT optout.guard(relation, user_id, organization, occurred_at)
			  FROM optout.guarded WHERE NOT by_rule AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = relation)};
		like(errors_of($server, $again, dbname => $dbname), qr/ERROR:  22004: the user_id column must not be null/, "$what: guard() in the form of 1.1");
		$server->safe_psql($dbname, "$again AND user_id IS NOT NULL");
		$server->safe_psql($dbname, q{
			SELECT optout.guard(relation, user_ids, organization::text, occurred_at::text, payload, time_zone, fixed_organization)
			  FROM optout.guarded WHERE NOT by_rule AND fires <> 'always';
			SELECT optout.repair()});
	}
	is($server->safe_psql($dbname, $guards), $expected_guards, "$what: guards");
	is($server->safe_psql($dbname, $all_guards_fire), '13|t', "$what: all guards fire always");
	check_guards($server, $dbname, $what);

	is($server->safe_psql($dbname, $privileges), $but{privileges} // $expected_privileges, "$what: privileges");
	is( $server->safe_psql($dbname, q{
			BEGIN;
			SET LOCAL ROLE "acme's Admin";
			SELECT optout.opt_out('bob', 'acme'), optout.opt_in('alice', 'acme');
			SELECT count(*), min(organization), max(organization) FROM optout.user_list;
			RESET ROLE;
			SELECT optout.accepts('bob', 'acme'), optout.accepts('alice', 'acme');
			ROLLBACK}),
		"t|t\n16|acme|acme\nf|t",
		"$what: administrator administers their organization");
	like( errors_of($server, q{SET ROLE "acme's Admin"; SELECT optout.opt_out('bob', 'default')}, dbname => $dbname),
		qr/ERROR:  42501: permission denied for organization "default"/,
		"$what: administrator cannot administer another");
	is( $server->safe_psql($dbname, q{
			SET ROLE reader; SELECT count(*), min(organization) FROM optout.opt_out_list}),
		'14|o\'brien & söhne',
		"$what: reader reads their organization");
	like( errors_of($server, q{SET ROLE reader; SELECT optout.opt_out('bob', 'o''brien & söhne')}, dbname => $dbname),
		qr/ERROR:  42501: permission denied for function opt_out/,
		"$what: reader cannot administer");
}

# Run psql on a file; any error fails the test.
sub run_psql
{
	my ($server, $dbname, $file, $what) = @_;

	$server->command_ok(
		[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $server->connstr($dbname), '-f', $file ],
		$what);
}

check_guards($node, 'source', 'source');

$node->command_ok([ 'pg_dumpall', '--roles-only', '-f', "$dir/roles.sql" ], 'pg_dumpall --roles-only');
$node->command_ok([ 'pg_dump', '-f', "$dir/plain.sql", 'source' ], 'pg_dump');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom.dump", 'source' ], 'pg_dump -Fc');
$node->command_ok([ 'pg_dump', '-a', '-f', "$dir/data.sql", 'source' ], 'pg_dump --data-only');
$node->command_ok([ 'pg_dump', '-a', '--disable-triggers', '-f', "$dir/data_disable.sql", 'source' ],
	'pg_dump --data-only --disable-triggers');

# The other server has other roles, so that OIDs differ; the superuser is there.
$other->safe_psql('postgres', 'CREATE ROLE unrelated');
$other->psql('postgres', slurp_file("$dir/roles.sql"), on_error_stop => 0);

for my $server ($node, $other)
{
	my $where = $server == $node ? 'same server' : 'another server';

	$server->safe_psql('postgres', "CREATE DATABASE $_ TEMPLATE template0") for 'plain', 'custom', 'single';
	run_psql($server, 'plain', "$dir/plain.sql", "$where: psql restores");
	check_restored($server, 'plain', "$where, plain");

	# in one transaction; and over what there is
	for my $clean ([], [ '--clean', '--if-exists' ])
	{
		$server->command_ok(
			[ 'pg_restore', '-1', '-e', @$clean, '-d', $server->connstr('single'), "$dir/custom.dump" ],
			"$where: pg_restore -1 @$clean");
	}
	check_restored($server, 'single', "$where, single transaction");

	# in two steps, or the guard of the partitioned table could come before the
	# data of its partitions
	for my $sections ([ 'pre-data', 'data' ], ['post-data'])
	{
		$server->command_ok(
			[ 'pg_restore', '-j2', '-e', (map { "--section=$_" } @$sections), '-d', $server->connstr('custom'), "$dir/custom.dump" ],
			"$where: pg_restore -j2, @$sections");
	}
	check_restored($server, 'custom', "$where, custom");
}

# Data only, where extension and tables exist already.  Their privileges are
# restored by hand, since they are no data.  The guard discards what the dump
# holds of users opted out now, unless triggers are disabled; ENABLE TRIGGER ALL
# then leaves the guards as ordinary triggers.
my $prepare = qq{
	CREATE EXTENSION optout;
	$event_tables} . q{
	CREATE TABLE person (organization text, user_id text);
	GRANT EXECUTE ON FUNCTION optout.accepts(text, text, timestamptz) TO ingest;
	GRANT SELECT ON optout.product_user TO reader;
	SELECT optout.grant_authority(r, 'none', 'administer')
	  FROM unnest(ARRAY['"acme''s Admin"'::regrole, 'everywhere']) AS r;
	TRUNCATE optout.authority, optout.guard_rule};
$other->safe_psql('postgres', "CREATE DATABASE $_ TEMPLATE template0") for 'data', 'data_disable';
$other->safe_psql($_, $prepare) for 'data', 'data_disable';

my $expected_accepted = $node->safe_psql('source', q{
	SELECT 'event', event_id::text, user_id, what FROM event WHERE optout.accepts(user_id)
	UNION ALL SELECT 'parted', org, uid, what FROM parted WHERE optout.accepts(uid, org, at)
	UNION ALL SELECT 'ruled', NULL, user_id, k::text FROM "wH".parted WHERE optout.accepts(user_id, 'acme') ORDER BY 1, 2, 3, 4});
isnt($expected_accepted, $expected_events, 'dump holds events of users opted out since');

run_psql($other, 'data', "$dir/data.sql", 'data only: psql restores');
check_restored($other, 'data', 'data only', events => $expected_accepted);
run_psql($other, 'data_disable', "$dir/data_disable.sql", 'data only, triggers disabled: psql restores');
check_restored($other, 'data_disable', 'data only, triggers disabled', fires => 'origin');

# A copy of the database, with its dangling authority.
$node->safe_psql('postgres', 'CREATE DATABASE copied TEMPLATE source');
check_restored($node, 'copied', 'template', dangling => 1);

# What is done in the copy stays there.
$node->safe_psql('copied', q{SELECT optout.opt_out('bob', 'acme'), optout.opt_in('it''s', 'acme')});
is($node->safe_psql('source', $answers), $expected_answers, 'source is not affected by what is done in its copy');

$_->stop for $node, $other;
done_testing();
