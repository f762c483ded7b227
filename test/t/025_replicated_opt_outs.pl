# Opt-outs that arrive by logical replication, under load on both servers: while
# the tables are copied, streamed, prepared, rolled back, and while the apply
# worker or the whole subscriber goes down.  Whom the subscriber's table holds is
# discarded there at once; when it has caught up, both servers hold the same.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $settings = "shared_preload_libraries = 'optout'\nautovacuum = off\nmax_prepared_transactions = 10\n"
  . "logical_decoding_work_mem = '64kB'\nwal_retrieve_retry_interval = '100ms'\n";
my $publisher = new_server('publisher', { allows_streaming => 'logical' }, $settings);
my $subscriber = new_server('subscriber', { allows_streaming => 'logical' }, $settings);
my $parallel_apply = $subscriber->safe_psql('postgres',
	q{SELECT current_setting('server_version_num')::int >= 160000}) eq 't';

# How the load treats the candidates: u1 to u20 are out already, u21 to u60 are
# opted out one after the other and stay so, u61 to u80 go out and in, the rest
# are left alone.
my @candidates = map { "u$_" } 1 .. 100;
$publisher->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 3000) AS n;
	SELECT optout.opt_out(array_agg('u' || n)) FROM generate_series(1, 20) AS n;
	SELECT optout.opt_out(array_agg('u' || n)) FROM generate_series(1001, 3000) AS n;
	CREATE TABLE stop ();
	CREATE PUBLICATION opt_outs FOR TABLE optout.product_user, optout.opt_out_period});
$subscriber->safe_psql('postgres', 'CREATE EXTENSION optout');
ingest_tables($subscriber, scalar @candidates);
$subscriber->safe_psql('postgres', q{
	CREATE TABLE stop ();
	CREATE TABLE leaked (user_id text, path text);
	CREATE TABLE round (number serial)});

# Offer events until told to stop, also while the first copy is made, which is an
# error.  Who is known to be out before they are offered, and is never opted in,
# must not be among the stored.
my $ingest = q{DO $$
	DECLARE known text[];
	BEGIN
		WHILE NOT EXISTS (SELECT FROM stop) LOOP
			SELECT array_agg(user_id) INTO known FROM optout.opt_out_list
			 WHERE user_id = ANY (ARRAY(SELECT 'u' || n FROM generate_series(1, 60) AS n));
			COMMIT;
			BEGIN
				WITH offer AS (INSERT INTO offered SELECT 2 * count(*) FROM candidate),
					 g AS (INSERT INTO guarded SELECT user_id FROM candidate RETURNING user_id),
					 f AS (INSERT INTO filtered SELECT user_id FROM candidate WHERE optout.accepts(user_id) RETURNING user_id),
					 r AS (INSERT INTO round DEFAULT VALUES)
				INSERT INTO leaked
				SELECT user_id, 'guard' FROM g WHERE user_id = ANY (known)
				UNION ALL
				SELECT user_id, 'accepts' FROM f WHERE user_id = ANY (known);
			EXCEPTION WHEN object_not_in_prerequisite_state THEN
				PERFORM pg_sleep(0.01);
			END;
			COMMIT;
		END LOOP;
	END $$};

# Opt out and in until told to stop.
my $administer = q{DO $$
	DECLARE once int := 20;
	BEGIN
		WHILE once < 60 OR NOT EXISTS (SELECT FROM stop) LOOP
			IF once < 60 THEN
				once := once + 1;
				PERFORM optout.opt_out('u' || once);
				COMMIT;
			END IF;
			PERFORM optout.opt_out(array_agg('u' || n)) FROM generate_series(61, 80) AS n WHERE random() < 0.5;
			COMMIT;
			PERFORM optout.opt_in(array_agg('u' || n)) FROM generate_series(61, 80) AS n WHERE random() < 0.5;
			COMMIT;
			PERFORM optout.opt_out(array_agg('u' || n)) FROM generate_series(1, 80) AS n;
			ROLLBACK;
		END LOOP;
	END $$};

my @ingesting;

sub start_ingest
{
	push @ingesting, OptoutTest::Session->new($subscriber) for 1 .. 2;
	$ingesting[-1]->query(q{SET default_transaction_isolation = 'repeatable read'});
	$_->begin($ingest) for @ingesting;
}

# The load goes on for so many rounds at the subscriber.
sub wait_for_rounds
{
	my $now = $subscriber->safe_psql('postgres', 'SELECT count(*) FROM round');

	$subscriber->poll_query_until('postgres', "SELECT count(*) >= $now + 10 FROM round")
	  or die 'ingest does not go on';
}

sub apply_worker
{
	$subscriber->poll_query_until('postgres',
		'SELECT count(*) = 1 FROM pg_stat_subscription WHERE pid IS NOT NULL AND relid IS NULL'
		  . ($parallel_apply ? ' AND leader_pid IS NULL' : ''))
	  or die 'no apply worker';
	return $subscriber->safe_psql('postgres',
		'SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL AND relid IS NULL'
		  . ($parallel_apply ? ' AND leader_pid IS NULL' : ''));
}

# Both servers have the same users and periods, and the subscriber acts by them.
sub check_same
{
	my ($what, @sessions) = @_;
	my $state = q{
		SELECT * FROM optout.product_user ORDER BY organization, user_id;
		SELECT * FROM optout.opt_out_period ORDER BY organization, user_id, opted_out_at};

	$publisher->wait_for_catchup('opt_outs');
	is($subscriber->safe_psql('postgres', $state), $publisher->safe_psql('postgres', $state),
		"$what: directory and periods are the same");

	my %out = map { $_ => 1 } split / /, $publisher->safe_psql('postgres',
		q{SELECT string_agg(user_id, ' ') FROM optout.opt_out_list});
	check_exact($subscriber, [ grep { $out{$_} } @candidates ], $what, sessions => \@sessions);
	is($publisher->safe_psql('postgres', 'SELECT optout.verify()'), '0', "$what: publisher");
}

my $prepared = 'u90';
for my $streaming ('off', 'on', $parallel_apply ? 'parallel' : ())
{
	my $what = "streaming $streaming";

	# somebody whom the filter has never seen
	$prepared++;
	my $administrator = OptoutTest::Session->new($publisher);
	my $warm = OptoutTest::Session->new($subscriber);

	$warm->query(offer()) for 1 .. 2;
	$administrator->begin($administer);
	start_ingest();
	wait_for_rounds();

	# the initial copy and what comes after it
	my $connstr = $publisher->connstr . ' dbname=postgres';
	$subscriber->safe_psql('postgres', qq{
		CREATE SUBSCRIPTION opt_outs CONNECTION '$connstr' PUBLICATION opt_outs
		  WITH (streaming = $streaming, two_phase = on)});
	$subscriber->wait_for_subscription_sync($publisher, 'opt_outs');
	wait_for_rounds();

	# large transactions, which are streamed: committed, rolled back, prepared
	my $many = q{FROM generate_series(1001, 3000) AS n};
	$publisher->safe_psql('postgres', "SELECT optout.opt_in(array_agg('u' || n)) $many");
	$publisher->safe_psql('postgres', qq{
		BEGIN;
		SELECT optout.opt_out(array_agg('u' || n)) $many;
		SELECT optout.opt_out('u99');
		ROLLBACK});
	$publisher->safe_psql('postgres', qq{
		BEGIN;
		SAVEPOINT s;
		SELECT optout.opt_out('u98');
		SELECT optout.opt_out(array_agg('u' || n)) $many;
		ROLLBACK TO s;
		SELECT optout.opt_out('$prepared');
		SELECT optout.opt_out(array_agg('u' || n)) $many;
		PREPARE TRANSACTION 'prepared'});
	wait_for_rounds();

	# the apply worker ends
	my $pid = apply_worker();
	$subscriber->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	$subscriber->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid")
	  or die 'apply worker is still there';
	isnt(apply_worker(), $pid, "$what: another apply worker");
	wait_for_rounds();

	# the server crashes, while changes go on
	if ($streaming ne 'off')
	{
		$subscriber->stop('immediate');
		$_->quit for $warm, splice @ingesting;
		$subscriber->start;
		start_ingest();
		$warm = OptoutTest::Session->new($subscriber);
		$warm->query(offer());
		wait_for_rounds();
	}
	$publisher->safe_psql('postgres', "COMMIT PREPARED 'prepared'");
	wait_for_rounds();

	$_->safe_psql('postgres', 'INSERT INTO stop DEFAULT VALUES') for $publisher, $subscriber;
	for my $session (@ingesting, $administrator)
	{
		my ($out, $err) = $session->finish;
		is($err, '', "$what: load ended without an error");
	}
	is($subscriber->safe_psql('postgres', 'SELECT user_id, path, count(*) FROM leaked GROUP BY 1, 2'),
		'', "$what: nobody known to be out was stored");
	check_same($what, $warm, @ingesting);
	is( $subscriber->safe_psql('postgres', 'SELECT count(*) FROM candidate WHERE user_id IN (SELECT user_id FROM optout.opt_out_list)') >= 61 ? 'yes' : 'no',
		'yes', "$what: there was something to discard");

	$_->quit for $warm, $administrator, splice @ingesting;
	$subscriber->safe_psql('postgres', q{
		DROP SUBSCRIPTION opt_outs;
		DELETE FROM optout.opt_out_period;
		DELETE FROM optout.product_user});
	$_->safe_psql('postgres', 'TRUNCATE stop') for $publisher, $subscriber;
	check_exact($subscriber, [], "$what: state deleted");
	$publisher->safe_psql('postgres', q{
		SELECT optout.opt_in(array_agg(user_id)) FROM optout.opt_out_list WHERE NOT user_id = ANY (ARRAY(SELECT 'u' || n FROM generate_series(1, 20) AS n))});
}

$_->stop for $subscriber, $publisher;
done_testing();
