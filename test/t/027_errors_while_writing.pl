# Errors in the middle of writing: a file that must not grow any further, and
# constraints, triggers, locks and cancels that stop an array of users at its last.
# After the error nothing has changed, neither for the session that met it nor for
# others, the ledger included; and once the cause is gone the same works.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

# The server and all it starts may make files of 2 MB only.
my $dir = PostgreSQL::Test::Utils::tempdir;
append_to_file("$dir/pg_ctl", qq{#!/bin/sh\nulimit -f 4096\nPATH=\${PATH#*:} exec pg_ctl "\$@"\n});
chmod 0755, "$dir/pg_ctl" or die $!;

my $node;
{
	local $ENV{PATH} = "$dir:$ENV{PATH}";
	$node = new_server('main', { extra => ['--wal-segsize=1'] },
		"shared_preload_libraries = 'optout'\nautovacuum = off\nmax_prepared_transactions = 10\n"
		  . "min_wal_size = 2MB\nmax_wal_size = 64MB\n");
}
my $too_large = qr/ERROR:  [^:]*: could not (extend|write)[^\n]*: File too large/;

my $other = 'x' x 500;
$node->safe_psql('postgres', qq{
	CREATE EXTENSION optout;
	SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 3000) AS n;
	SELECT optout.enroll('u1', '$other'), optout.opt_out('u1', '$other');
	SELECT optout.opt_out('{u1,u2,u3}'::text[])});
ingest_tables($node, 40);
my @out = ('u1', 'u2', 'u3');
my $all = q{ARRAY(SELECT 'u' || n FROM generate_series(1, 3000) AS n)};
my $few = q{ARRAY(SELECT 'u' || n FROM generate_series(1, 40) AS n)};
my @candidates = map { "u$_" } 1 .. 40;

my @open = map { OptoutTest::Session->new($node) } 1 .. 2;
my $state = q{
	SELECT md5(string_agg(p::text, ' ' ORDER BY p::text)) FROM optout.opt_out_period AS p;
	SELECT md5(string_agg(u::text, ' ' ORDER BY u::text)) FROM optout.product_user AS u};

sub check
{
	my ($what) = @_;

	check_exact($node, \@out, $what, sessions => \@open);
}

check('before');

#
# The table of opt-outs cannot grow.
#
my $before = $node->safe_psql('postgres', $state);
my $long = q{repeat('because ', 150)};

like($open[0]->query_fails("SELECT optout.opt_out($all, reason => $long)"), $too_large, 'opt_out of many');
check('opt_out of many');
$open[0]->query('BEGIN; SAVEPOINT s');
like($open[0]->query_fails("SELECT optout.opt_out($all, reason => $long)"), $too_large, 'within a savepoint');
is($open[0]->query('ROLLBACK TO s; ' . offer()), 'u1 u2 u3 / u1 u2 u3', 'within a savepoint: same transaction');
$open[0]->query('COMMIT');
check('within a savepoint');
is($node->safe_psql('postgres', $state), $before, 'nothing has changed');

$node->safe_psql('postgres', 'VACUUM optout.opt_out_period');
is($node->safe_psql('postgres', "SELECT optout.opt_out($all)"), '2997', 'opted out with no reason');
@out = @candidates;
check('opted out with no reason');
like(errors_of($node, "BEGIN; SELECT optout.opt_in($all); SELECT optout.opt_out($all, reason => $long); COMMIT"),
	$too_large, 'opt_in, then opt_out');
check('opt_in, then opt_out');
$node->safe_psql('postgres', 'VACUUM optout.opt_out_period');
$node->safe_psql('postgres', "SELECT optout.opt_in($all); SELECT optout.opt_out('{u1,u2,u3}'::text[])");
@out = ('u1', 'u2', 'u3');
check('opted in');

# so cannot the directory
$before = $node->safe_psql('postgres', $state);
like(errors_of($node, q{SELECT optout.enroll(array_agg('new' || n || repeat('x', 900))) FROM generate_series(1, 3000) AS n}),
	$too_large, 'enroll of many');
is($node->safe_psql('postgres', $state), $before, 'enroll of many');

#
# The event table cannot grow, after events have been discarded.
#
my $events = join('', map { ('u1', 'x' x 1000, 'u' . (1 + $_ % 40)) [ $_ % 3 ] . "\n" } 1 .. 9000);
append_to_file("$dir/events", $events);
my $insert = q{
	INSERT INTO offered SELECT 9000;
	INSERT INTO guarded SELECT CASE n % 3 WHEN 0 THEN 'u1' WHEN 1 THEN repeat('x', 1000) ELSE 'u' || 1 + n % 40 END
	  FROM generate_series(1, 9000) AS n};
for my $sql ($insert, "INSERT INTO offered SELECT 9000;\n\\copy guarded from '$dir/events'",
	"INSERT INTO offered SELECT 9000;\n\\copy filtered from '$dir/events' where optout.accepts(user_id)")
{
	my ($what) = $sql =~ /(copy \w+|INSERT INTO guarded)/;

	like(errors_of($node, "BEGIN;\n$sql\n;\nCOMMIT;"), $too_large, $what);
	check($what);

	# an earlier part of the transaction stays, a later one comes
	like(errors_of($node, 'BEGIN;' . offer() . ";\nSAVEPOINT s;\n$sql\n;\nROLLBACK TO s;" . offer() . '; COMMIT;'),
		$too_large, "$what, within a savepoint");
	check("$what, within a savepoint");
	$node->safe_psql('postgres', 'VACUUM guarded, filtered');
}

#
# The ledger cannot grow, so that the commit fails.
#
$node->safe_psql('postgres', qq{
	CREATE TABLE kept AS SELECT * FROM optout.discard_ledger WHERE false;
	DO \$\$
	DECLARE length int := 1000;
	BEGIN
		FOR n IN 1 .. 100000 LOOP
			BEGIN
				INSERT INTO optout.discard_ledger VALUES (n || repeat('y', length), '2020-01-01 00:00+00', 1, 0);
			EXCEPTION WHEN OTHERS THEN
				EXIT WHEN length = 1;
				length := length / 2;
			END;
		END LOOP;
	END \$\$});
my $discard = qq{
	WITH offer AS (INSERT INTO offered VALUES (2))
	INSERT INTO filtered SELECT u FROM unnest('{u1,u4}'::text[]) AS u WHERE optout.accepts(u, '$other')};
like($open[0]->query_fails("BEGIN; $discard; COMMIT"), $too_large, 'COMMIT with a full ledger');
like($open[1]->query_fails($discard), $too_large, 'statement with a full ledger') for 1 .. 2;
like(errors_of($node, "BEGIN; $discard; PREPARE TRANSACTION 'full'"), $too_large, 'PREPARE TRANSACTION with a full ledger');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '0', 'nothing prepared');
is( $open[1]->query(q{INSERT INTO offered VALUES (1);
		INSERT INTO filtered SELECT u FROM unnest('{u4}'::text[]) AS u WHERE optout.accepts(u) RETURNING user_id}),
	'u4', 'who discards nothing can commit');
$node->safe_psql('postgres', q{
	DELETE FROM optout.discard_ledger WHERE hour < '2026-01-01';
	VACUUM optout.discard_ledger});
check('full ledger');
$_->query($discard) for @open;
$node->safe_psql('postgres', "BEGIN; $discard; PREPARE TRANSACTION 'no longer full'");
$node->safe_psql('postgres', "COMMIT PREPARED 'no longer full'");
check('no longer full');

#
# The last of many users is refused, before and after the filter has learned of
# all of them, and at the end of the transaction.
#
$node->safe_psql('postgres', q{
	CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN RAISE 'refused by %', TG_NAME; END $$});
my $each = q{ON optout.opt_out_period FOR EACH ROW WHEN (%s.user_id = 'u40') EXECUTE FUNCTION fail()};
my @causes = (
	[ q{ALTER TABLE optout.opt_out_period ADD CONSTRAINT refused CHECK (user_id <> 'u40') NOT VALID},
		'ALTER TABLE optout.opt_out_period DROP CONSTRAINT refused', qr/violates check constraint "refused"/, 'out in' ],
	(map { my ($name, $when) = @$_;
		[ "CREATE $when $each", "DROP TRIGGER $name ON optout.opt_out_period", qr/refused by $name/, 'out in forget' ] }
		[ 'before_it', 'TRIGGER before_it BEFORE %s' ], [ 'a_first', 'TRIGGER a_first AFTER %s' ],
		[ 'z_last', 'TRIGGER z_last AFTER %s' ]),
	[ "CREATE CONSTRAINT TRIGGER deferred AFTER %s " . ($each =~ s/FOR EACH/DEFERRABLE INITIALLY DEFERRED FOR EACH/r),
		'DROP TRIGGER deferred ON optout.opt_out_period', qr/refused by deferred/, 'out in forget' ]);
my %commands = (
	out => [ "SELECT optout.opt_out($few)", 'INSERT', 'NEW', "SELECT optout.opt_in($few)" ],
	in => [ "SELECT optout.opt_in($few)", 'UPDATE', 'NEW', "SELECT optout.opt_out($few)" ],
	forget => [ "SELECT optout.forget($few, force => true)", 'DELETE', 'OLD',
		"SELECT optout.enroll($few), optout.opt_out($few)" ]);

for my $cause (@causes)
{
	my ($create, $drop, $error, $commands) = @$cause;

	for my $command (split / /, $commands)
	{
		my ($sql, $event, $row, $undo) = @{ $commands{$command} };
		my ($name) = $drop =~ /(\w+)(?: ON|$)/;
		my $what = "$command, $name";

		# so that there is something to do for each of them
		$node->safe_psql('postgres', $command eq 'out' ? "SELECT optout.opt_in($few)" : "SELECT optout.opt_out($few)");
		@out = $command eq 'out' ? () : @candidates;
		$before = $node->safe_psql('postgres', $state);
		$node->safe_psql('postgres', $create =~ /%s/ ? sprintf($create, $event, $row) : $create);

		like($open[0]->query_fails($sql), $error, $what);
		is($node->safe_psql('postgres', $state), $before, "$what: nothing has changed");
		check($what);

		# caught, and asked within the same transaction
		$open[1]->query(qq{BEGIN;
			DO \$\$ BEGIN
				$sql; SET CONSTRAINTS ALL IMMEDIATE;
			EXCEPTION WHEN OTHERS THEN
				RAISE LOG 'caught';
			END \$\$} =~ s/SELECT optout/PERFORM optout/r);
		is($open[1]->query(offer()), join(' / ', (join(' ', sort @out) || '-') x 2), "$what: caught");
		$open[1]->query('COMMIT');
		is($node->safe_psql('postgres', $state), $before, "$what: nothing has changed by it");

		$node->safe_psql('postgres', $drop);
		$node->safe_psql('postgres', $sql);
		@out = $command eq 'out' ? @candidates : ();
		check("$what, again");
		$node->safe_psql('postgres', $undo);
	}
}

#
# The last of many users is locked by somebody else, and who waits is stopped.
#
$node->safe_psql('postgres', "SELECT optout.opt_in($few); SELECT optout.opt_out('u1')");
@out = ('u1');
for my $stop ('pg_cancel_backend', 'pg_terminate_backend')
{
	my $waiting = OptoutTest::Session->new($node);

	$open[0]->query(q{BEGIN; SELECT FROM optout.product_user WHERE user_id = 'u9' FOR UPDATE});
	$waiting->query('BEGIN; SELECT optout.opt_out(ARRAY[\'u2\'])');
	is($waiting->query(offer()), 'u1 u2 / u1 u2', "$stop: own opt-out");
	$waiting->begin("SELECT optout.opt_out($few)");
	$waiting->wait_for_lock($node);
	$node->safe_psql('postgres', "SELECT $stop(" . $waiting->pid . ')');
	if ($stop eq 'pg_cancel_backend')
	{
		my ($out, $err) = $waiting->finish;
		like($err, qr/ERROR:  57014/, $stop);
		$waiting->query('ROLLBACK');
	}
	else
	{
		$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = ' . $waiting->pid)
		  or die 'session does not end';
	}
	$waiting->quit;
	check($stop);
	$open[0]->query('COMMIT');
}
is($node->safe_psql('postgres', "SELECT optout.opt_out($few)"), '39', 'opted out after all');
@out = @candidates;
check('opted out after all');

$_->quit for @open;
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'no crash');
$node->stop;
done_testing();
