# The extension is dropped, created again, given to somebody else, or the whole
# database replaced, while others ingest and wait.  Nobody crashes or hangs, errors
# are clear, what is rolled back never was, and sessions that were there all the
# time, their prepared statements and functions too, answer by what there is now.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nautovacuum = off\nmax_prepared_transactions = 5\n");
my $dbname = 'events';
my @out;
my @open;
my $unguard = 'SELECT optout.unguard(relation) FROM optout.guarded';
my $enroll = q{SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 20) AS n};
my $gone = qr/ERROR:  (3F000: schema "optout" does not exist|42883: function optout\.\w+\(\w*\) does not exist)/;

sub run { return $node->safe_psql($dbname, shift) }
sub session { return OptoutTest::Session->new($node, dbname => $dbname) }

# What else an application keeps: a prepared statement with a generic plan, and
# functions that have been called before.
my @kept = (
	'EXECUTE filter_them',
	q{SELECT string_agg(u, ' ' ORDER BY u) FROM in_plpgsql() AS u},
	q{SELECT string_agg(u, ' ' ORDER BY u) FROM in_sql() AS u});

sub open_sessions
{
	$_->quit for splice @open;
	@open = map { session() } 1 .. 2;
	for my $session (@open)
	{
		$session->query(q{SET plan_cache_mode = force_generic_plan;
			PREPARE filter_them AS SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM candidate WHERE NOT optout.accepts(user_id);
			PREPARE guard_them AS INSERT INTO guarded SELECT user_id FROM candidate});
		for (1 .. 2)
		{
			$session->query("BEGIN; $_; ROLLBACK") for @kept;
			$session->query('BEGIN; EXECUTE guard_them; ROLLBACK');
		}
	}
}

# Nothing counts in here, for it would not be offered.
sub check
{
	my ($what) = @_;
	my $list = join ' ', sort @out;

	for my $session (@open)
	{
		is($session->query("BEGIN; $_; ROLLBACK"), $list, "$what: $_") for @kept;
		is( $session->query('BEGIN; TRUNCATE guarded; EXECUTE guard_them; SELECT count(*) FROM guarded; ROLLBACK'),
			20 - @out, "$what: guard_them");
	}
	check_exact($node, \@out, $what, dbname => $dbname, sessions => \@open);
}

# New tables of the extension: from now on events count.
sub created
{
	@out = @_;
	run("$enroll; SELECT optout.opt_out('{" . join(',', @out) . "}'::text[]), optout.guard('guarded');
		TRUNCATE guarded, filtered, offered, optout.discard_ledger");
}

$node->safe_psql('postgres', "CREATE DATABASE $dbname");
run('CREATE EXTENSION optout');
ingest_tables($node, 20, dbname => $dbname);
run(q{
	CREATE FUNCTION in_plpgsql() RETURNS SETOF text LANGUAGE plpgsql AS $$
	DECLARE u text;
	BEGIN
		FOR u IN SELECT user_id FROM candidate LOOP
			IF NOT optout.accepts(u) THEN RETURN NEXT u; END IF;
		END LOOP;
	END $$;
	CREATE FUNCTION in_sql() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT user_id FROM candidate WHERE NOT optout.accepts(user_id) $$});
created('u1', 'u2');
open_sessions();
check('before');

#
# Refused while there are guards.
#
like(errors_of($node, 'DROP EXTENSION optout', dbname => $dbname),
	qr/ERROR:  2BP01: cannot drop extension optout because other objects depend on it/, 'guards are in the way');
check('refused');

#
# It waits for those who ingest, who go on and are counted.
#
my @ways = (
	[ 'accepts', q{INSERT INTO filtered SELECT user_id FROM candidate WHERE optout.accepts(user_id)} ],
	[ 'guard', q{INSERT INTO guarded SELECT user_id FROM candidate} ],
	[ 'is_opted_out', q{INSERT INTO filtered SELECT user_id FROM candidate WHERE NOT optout.is_opted_out(user_id)} ],
	[ 'nobody is out', q{INSERT INTO filtered SELECT user_id FROM candidate WHERE user_id = 'u20' AND optout.accepts(user_id)} ],
	[ 'prepared statement', 'EXECUTE guard_them' ]);
for my $round (1 .. 2)
{
	for my $way ($round == 1 ? @ways : @ways[0 .. 1])
	{
		my ($name, $insert) = @$way;
		my $what = "dropped while others ingest, $name";
		my $dropper = session();

		run($unguard) if $name ne 'guard' && $name ne 'prepared statement';
		$open[0]->query("BEGIN; $insert");
		$dropper->begin('DROP EXTENSION optout CASCADE');
		$dropper->wait_for_lock($node);
		$open[0]->query($insert) for 1 .. 2;
		$open[0]->query("SAVEPOINT s; $insert; ROLLBACK TO s");
		$open[0]->query('COMMIT');
		my ($out, $err) = $dropper->finish;
		unlike($err, qr/ERROR/, "$what: DROP EXTENSION");
		$dropper->quit;

		like($_->query_fails(offer()), $gone, "$what: clear error") for @open;
		for my $sql (@kept)
		{
			like($_->query_fails($sql), $gone, "$what: $sql") for @open;
		}
		like(errors_of($node, q{SELECT optout.opt_out('u1')}, dbname => $dbname), $gone, "$what: administration");

		# whose tables remain, without guard and filter
		is($open[0]->query('BEGIN; TRUNCATE guarded; EXECUTE guard_them; SELECT count(*) FROM guarded; ROLLBACK'),
			'20', "$what: no guard any more");

		# its catalog rows go to where others were
		run('VACUUM pg_depend, pg_class, pg_proc, pg_trigger');
		run('CREATE EXTENSION optout');
		created('u' . (1 + @out % 9), 'u1' . $round, 'u20');
		check("$what, created again");
	}
}

# those who stream
run($unguard);
my $copy = session();
my $dropper = session();
$copy->query('BEGIN');
$copy->begin_copy('COPY filtered FROM STDIN WHERE optout.accepts(user_id)');
$copy->send("before\n$out[0]\n" x 2000);
$node->poll_query_until($dbname, q{
	SELECT count(*) > 0 FROM pg_locks WHERE relation = 'optout.opt_out_period'::regclass AND mode = 'RowExclusiveLock'})
  or die 'COPY has not begun';
$dropper->begin('DROP EXTENSION optout');
$dropper->wait_for_lock($node);
$copy->send("after\n$out[0]\n" x 2000);
$copy->end_copy;
is($copy->query("SELECT user_id, count(*) FROM filtered WHERE user_id IN ('before', 'after', '$out[0]') GROUP BY user_id ORDER BY user_id"),
	"after|2000\nbefore|2000", 'COPY goes on');
$copy->query('COMMIT');
my ($out, $err) = $dropper->finish;
is($err, '', 'dropped after COPY');
$_->quit for $copy, $dropper;
run('CREATE EXTENSION optout');
created('u5');
check('COPY');

#
# Others wait for a transaction that drops it and perhaps creates it again.
#
for my $again (0, 1)
{
	for my $end ('ROLLBACK', 'COMMIT', 'PREPARE TRANSACTION')
	{
		my $what = ($again ? 'DROP and CREATE, ' : 'DROP, ') . $end;
		my @waiting = map { session() } 1 .. 4;

		$dropper = session();
		$waiting[0]->query(q{SELECT optout.accepts('u20')});
		$waiting[2]->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');
		$dropper->query("BEGIN; $unguard; DROP EXTENSION optout");
		$dropper->query("CREATE EXTENSION optout; $enroll; SELECT optout.opt_out('{u6,u7}'::text[]), optout.guard('guarded')")
		  if $again;
		my @asked = (
			q{SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM candidate WHERE user_id <> 'u8' AND NOT optout.accepts(user_id)},
			q{SELECT optout.opt_out('u8')},
			q{SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM candidate WHERE user_id <> 'u8' AND optout.is_opted_out(user_id)},
			q{WITH s AS (INSERT INTO guarded SELECT user_id FROM candidate RETURNING user_id), o AS (INSERT INTO offered VALUES (20))
			  SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM candidate WHERE user_id <> 'u8' AND user_id NOT IN (SELECT user_id FROM s)});
		for my $i (0 .. 3)
		{
			$waiting[$i]->begin($i == 0 ? "BEGIN; $asked[0]; ROLLBACK" : $asked[$i]);
			$waiting[$i]->wait_for_lock($node);
		}
		if ($end eq 'PREPARE TRANSACTION')
		{
			$dropper->query("PREPARE TRANSACTION 'dropped'");
			$dropper->query($again ? "COMMIT PREPARED 'dropped'" : "ROLLBACK PREPARED 'dropped'");
		}
		else
		{
			$dropper->query($end);
		}
		my $dropped = $end eq 'COMMIT' || ($again && $end eq 'PREPARE TRANSACTION');

		for my $i (0 .. 3)
		{
			($out, $err) = $waiting[$i]->finish;
			my $now = join ' ', sort $dropped ? ($again ? ('u6', 'u7') : ()) : @out;

			# as PostgreSQL says of what is dropped while somebody waits for it
			like($err, qr/ERROR:  (XX000: could not open relation with OID|XX000: cache lookup failed for function|3F000|42883|42P01)/,
				"$what: error: $asked[$i]")
			  if $dropped && $err ne '';
			is($out, $i == 1 ? 't' : $now, "$what: $asked[$i]") if !$dropped || $err eq '';
		}
		$_->quit for $dropper, @waiting;

		if ($dropped)
		{
			run('CREATE EXTENSION optout') if !$again;
			created($again ? ('u6', 'u7') : 'u9');
			run(q{SELECT optout.opt_in('u8')});
		}
		else
		{
			run(q{SELECT optout.opt_in('u8')});
		}
		check($what);
	}
}

#
# Undone, by a savepoint too.
#
$open[0]->query("BEGIN; SAVEPOINT s; $unguard; DROP EXTENSION optout");
like($open[0]->query_fails('SELECT optout.accepts(1)'), $gone, 'dropped within a savepoint');
$open[0]->query('ROLLBACK TO s');
is($open[0]->query(offer()), join(' / ', (join ' ', sort @out) x 2), 'drop undone');
$open[0]->query("$unguard; DROP EXTENSION optout; CREATE EXTENSION optout; $enroll; SELECT optout.opt_out('u19'), optout.guard('guarded')");
is($open[0]->query(offer()), 'u19 / u19', 'dropped and created');
is($open[0]->query('EXECUTE filter_them'), 'u19', 'dropped and created: prepared statement');
$open[0]->query('ROLLBACK TO s');
is($open[0]->query('EXECUTE filter_them'), join(' ', sort @out), 'both undone: prepared statement');
$open[0]->query('ROLLBACK');
check('undone');

# discards of a transaction that drops the extension are nobody's any more
$open[0]->query("BEGIN; " . offer() . "; $unguard; DROP EXTENSION optout; COMMIT");
run('CREATE EXTENSION optout');
created('u3', 'u4');
check('dropped by the session that discards');

#
# Somebody else's: all of it, and parts of it.
#
run(q{
	CREATE ROLE keeper; CREATE ROLE next_keeper; CREATE ROLE stranger;
	GRANT INSERT, SELECT ON candidate, guarded, filtered, offered TO keeper, next_keeper});
my $state_tables = q{'optout.product_user', 'optout.opt_out_period', 'optout.user_alias', 'optout.discard_ledger'};
run(qq{
	UPDATE pg_extension SET extowner = 'keeper'::regrole WHERE extname = 'optout';
	DO \$\$ DECLARE t text; BEGIN
		FOREACH t IN ARRAY ARRAY[$state_tables] LOOP
			EXECUTE format('ALTER TABLE %s OWNER TO keeper', t);
		END LOOP;
	END \$\$;
	ALTER SCHEMA optout OWNER TO keeper;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA optout TO keeper, next_keeper});
check('kept by another role');
is(run(q{SET ROLE keeper; SELECT optout.opt_out('u5'), optout.opt_in('u3')}), 't|t', 'keeper administers');
@out = ('u4', 'u5');
check('administered by its keeper');
is(run(q{SELECT optout.opt_out('u6')}), 't', 'so does a superuser');
push @out, 'u6';
check('administered by a superuser');

# verify() reads it as the keeper
run('ALTER TABLE optout.opt_out_period OWNER TO next_keeper; GRANT SELECT ON optout.opt_out_period TO keeper');
like(errors_of($node, q{SELECT optout.opt_out('u7')}, dbname => $dbname),
	qr/ERROR:  42501: permission denied for table opt_out_period/, 'a table that is not the keeper\'s');
check('a table that is not the keeper\'s');
run('ALTER TABLE optout.opt_out_period OWNER TO keeper');

run('REASSIGN OWNED BY keeper TO next_keeper');
is(run(q{SELECT extowner::regrole FROM pg_extension WHERE extname = 'optout'}), 'keeper',
	'REASSIGN OWNED does not find an extension without its dependency');
run(q{UPDATE pg_extension SET extowner = 'next_keeper'::regrole WHERE extname = 'optout'});
is(run(q{SET ROLE next_keeper; SELECT optout.opt_in('u6')}), 't', 'next keeper administers');
like(errors_of($node, q{SET ROLE keeper; SELECT optout.opt_out('u6')}, dbname => $dbname),
	qr/ERROR:  42501: permission denied/, 'the former one does not');
@out = ('u4', 'u5');
check('kept by the next role');
run(q{UPDATE pg_extension SET extowner = 10 WHERE extname = 'optout'; REASSIGN OWNED BY next_keeper TO CURRENT_USER});
check('kept by the superuser again');

like(errors_of($node, 'ALTER EXTENSION optout UPDATE', dbname => $dbname), qr/NOTICE: .*already installed/, 'UPDATE to the same version');
check('updated to the same version');
like(errors_of($node, 'ALTER EXTENSION optout SET SCHEMA public', dbname => $dbname), qr/ERROR:  0A000/, 'SET SCHEMA');
run('ALTER SCHEMA optout RENAME TO elsewhere');
like($_->query_fails(offer()), $gone, 'schema renamed') for @open;
like($_->query_fails('INSERT INTO guarded SELECT user_id FROM candidate'), $gone, 'schema renamed: the guard lets nobody pass') for @open;

# its name in other hands: tables of other columns, or of the same
for my $columns ('organization int, user_id int, opted_out_at int', 'organization text, user_id text, opted_out_at timestamptz, opted_in_at timestamptz')
{
	run(qq{CREATE SCHEMA optout; CREATE TABLE optout.opt_out_period ($columns,
		CONSTRAINT opt_out_period_pkey PRIMARY KEY (user_id, organization, opted_out_at))});
	for my $session (@open, session())
	{
		like($session->query_fails('INSERT INTO guarded SELECT user_id FROM candidate'),
			qr/ERROR:  3F000: schema "optout" is not that of the extension/, 'schema renamed: nor does another of its name');
		$session->query('SET optout.filter = off');
		like($session->query_fails('INSERT INTO guarded SELECT user_id FROM candidate'),
			qr/ERROR:  3F000: schema "optout" is not that of the extension/, 'schema renamed: nor its table');
		$session->query('RESET optout.filter');
		$session->quit if !grep { $_ == $session } @open;
	}
	run('DROP SCHEMA optout CASCADE');
}
run('ALTER SCHEMA elsewhere RENAME TO optout');
check('schema renamed back');

#
# A database in place of another.
#
like(errors_of($node, "DROP DATABASE $dbname"), qr/ERROR:  55006/, 'database in use');
check('database in use');
for my $round (1, 2)
{
	my $force = $round == 1 ? ' WITH (FORCE)' : '';

	$_->quit for $round == 1 ? () : splice @open;
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '$dbname'")
	  if $round == 2;
	$node->safe_psql('postgres', "CREATE DATABASE before TEMPLATE $dbname") if $round == 2;
	$node->safe_psql('postgres', "DROP DATABASE $dbname$force");
	$_->quit for splice @open;
	$node->safe_psql('postgres', "CREATE DATABASE $dbname TEMPLATE " . ($round == 1 ? 'template0' : 'before'));
	if ($round == 1)
	{
		run('CREATE EXTENSION optout');
		ingest_tables($node, 20, dbname => $dbname);
		run(q{
			CREATE FUNCTION in_plpgsql() RETURNS SETOF text LANGUAGE sql AS 'SELECT user_id FROM candidate WHERE NOT optout.accepts(user_id)';
			CREATE FUNCTION in_sql() RETURNS SETOF text LANGUAGE sql AS 'SELECT user_id FROM candidate WHERE NOT optout.accepts(user_id)'});
		created('u10', 'u11');
	}
	else
	{
		run(q{SELECT optout.opt_in('u10'), optout.opt_out('u12')});
		@out = ('u11', 'u12');
	}
	open_sessions();
	check("database created again, $round");
}
is($node->safe_psql('before', q{SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM candidate WHERE optout.is_opted_out(user_id)}),
	'u10 u11', 'the one it was copied from');
$_->quit for splice @open;
$node->safe_psql('postgres', "ALTER DATABASE $dbname RENAME TO after; ALTER DATABASE before RENAME TO $dbname");
@out = ('u10', 'u11');
open_sessions();
check('database renamed');

$_->quit for @open;
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'no crash');
$node->stop;
done_testing();
