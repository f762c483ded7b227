# optout.purge() beside ingest by every path: a COPY that is running, a prepared
# transaction, and all of them at once under load, while others opt in, erase and
# link the same users.  What it has purged stays away.  It can be cancelled, tells how
# far it has come, and a subscriber can purge, too.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use OptoutLoad;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $settings = q{
shared_preload_libraries = 'optout'
max_prepared_transactions = 20
autovacuum = off
};
my $node = new_server('main', { allows_streaming => 'logical' }, $settings);

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll('{alice,bob}'::text[]), optout.link('alice', '{phone}');
	CREATE TABLE event (user_id text, device text);
	CREATE INDEX ON event (user_id);
	CREATE INDEX ON event (device);
	SELECT optout.guard('event', ARRAY['user_id', 'device'])});
my $stored = q{SELECT count(*) FILTER (WHERE user_id = 'alice' OR device = 'phone'), count(*) FROM event};

#
# A COPY is running
#
my $copy = OptoutTest::Session->new($node);
my $admin = OptoutTest::Session->new($node);
my $other = OptoutTest::Session->new($node);

# rows are sent on to the server only if there are enough of them
my $lines = join('', map { "$_\n" } ("alice\ttv", "bob\tphone", "bob\ttv") x 30_000);
$copy->begin_copy('COPY event FROM STDIN');
$copy->send($lines);
$node->poll_query_until('postgres', q{SELECT tuples_processed + tuples_excluded > 0 FROM pg_stat_progress_copy}) or die 'no row has been read';
$admin->query(q{SELECT optout.opt_out('alice')});
$admin->begin(q{CALL optout.purge('{alice}')});
$admin->wait_for_lock($node);
is($other->query(q{SELECT command, phase FROM optout.progress}), 'purge|waiting for transactions', 'progress');
$copy->send($lines);
$copy->end_copy;
my ($out, $err) = $admin->finish;
like($err, qr/NOTICE:  \S*:? ?deleted [1-9]\d* events from table public\.event/, 'COPY: what had been let through is deleted');
is($other->query($stored), '0|60000', 'COPY: nothing of theirs is left');

#
# Other sessions are told to forget what they remember.  Whoever has opted out the users
# may not have told them yet, though it can be seen already
#
$admin->query(q{SELECT optout.opt_out('bob')});
$admin->query(q{SELECT optout.opt_in('bob')});
my $past = q{SELECT optout.is_opted_out('bob', 'default', max(opted_out_at)) FROM optout.opt_out_history WHERE user_id = 'bob'};
my $lookups = q{SELECT lookups_memo, lookups_table FROM optout.status};
is($other->query($past), 't', 'the past') for 1 .. 2;
my @before = split /\|/, $copy->query($lookups);
$other->query($past);
$admin->query(q{CALL optout.purge('{alice}')});
$other->query($past);
my @after = split /\|/, $copy->query($lookups);
is_deeply([ $after[0] - $before[0], $after[1] - $before[1] ], [ 1, 1 ], 'asked before the purge and after it: memo and table');

#
# A prepared transaction
#
$node->safe_psql('postgres', q{
	TRUNCATE event;
	SELECT optout.opt_in('alice');
	BEGIN;
	INSERT INTO event VALUES ('alice', 'tv'), ('bob', 'phone'), ('bob', 'tv');
	PREPARE TRANSACTION 'batch'});
$admin->query(q{SELECT optout.opt_out('alice')});
$admin->begin(q{CALL optout.purge('{alice}')});
$admin->wait_for_lock($node);
$node->stop('immediate');
$node->start;
$_->quit for $copy, $admin, $other;
($copy, $admin, $other) = map { OptoutTest::Session->new($node) } 1 .. 3;
$admin->begin(q{CALL optout.purge('{alice}')});
$admin->wait_for_lock($node);
$node->safe_psql('postgres', q{COMMIT PREPARED 'batch'});
like(($admin->finish)[1], qr/deleted 2 events/, 'prepared transaction: what had been let through is deleted, also after a crash');
is($other->query($stored), '0|1', 'prepared transaction: nothing of theirs is left');

#
# Cancelled: while it waits, and while it deletes
#
$other->query(q{BEGIN; SELECT optout.accepts('bob')});
$admin->begin(q{CALL optout.purge('{alice}')});
$admin->wait_for_lock($node);
$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $admin->pid . ')');
like(($admin->finish)[1], qr/ERROR:  57014/, 'cancelled while it waits');
like($admin->query_fails(q{SET statement_timeout = '50ms'; CALL optout.purge('{alice}')}), qr/ERROR:  57014/, 'statement_timeout');
$admin->query('RESET statement_timeout');
$other->query('COMMIT');
is($other->query(q{SELECT optout.opt_in('alice')}), 't', 'cancelled: nobody waits for it any more');
$node->safe_psql('postgres', q{
	INSERT INTO event SELECT 'alice', n FROM generate_series(1, 3) AS n;
	SELECT optout.opt_out('alice');
	CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF OLD.device = ''2'' THEN PERFORM pg_advisory_xact_lock(1); END IF; RETURN OLD; END';
	CREATE TRIGGER wait BEFORE DELETE ON event FOR EACH ROW EXECUTE FUNCTION wait()});
$other->query('SELECT pg_advisory_lock(1)');
$admin->begin(q{CALL optout.purge('{alice}')});
$admin->wait_for_lock($node);
is($copy->query(q{SELECT command, phase, done, total FROM optout.progress}), 'purge|deleting events|0|1', 'progress');
$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $admin->pid . ')');
like(($admin->finish)[1], qr/ERROR:  57014/, 'cancelled while it deletes');
is($copy->query(q{SELECT count(*) FROM optout.progress}), '0', 'cancelled: not in progress any more');
is($copy->query($stored), '3|4', 'cancelled: nothing is deleted');
$other->query('SELECT pg_advisory_unlock(1)');
$admin->query(q{CALL optout.purge('{alice}')});
is($copy->query($stored), '0|1', 'tried again');
$_->quit for $copy, $admin, $other;

#
# Everything at once.  Those who purge look into the tables right after, and a while
# later, whether anything of theirs is there.
#
my $dir = $node->basedir;
my $rounds = 40 * OptoutLoad::rounds(3);
append_to_file("$dir/batch", join('', map { 'u' . int(rand 8) . "\td" . int(rand 8) . "\n" } 1 .. 200));
$node->safe_psql('postgres', qq{
	DROP TRIGGER wait ON event;
	TRUNCATE event;
	CREATE TABLE document (doc jsonb);
	SELECT optout.guard('document', ARRAY['\$.user.id', '\$.device'], payload => 'doc');
	CREATE TABLE parted (user_id text, n int) PARTITION BY HASH (n);
	CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	SELECT optout.guard('parted');
	-- u0 to u7 are purged and opted in again by one session each; v0 to v3 by whomever
	SELECT optout.enroll(array_agg(u)) FROM (SELECT 'u' || n FROM generate_series(0, 7) AS n UNION SELECT 'v' || n FROM generate_series(0, 3) AS n) AS a (u);
	SELECT optout.link('u' || n, ARRAY['d' || n]) FROM generate_series(0, 7) AS n;

	CREATE FUNCTION offer(what text) RETURNS SETOF record LANGUAGE sql AS \$\$
		SELECT what || (random() * 8)::int % 8, 'd' || (random() * 8)::int % 8 FROM generate_series(1, 5) \$\$;
	CREATE FUNCTION left_of(ids text[]) RETURNS bigint LANGUAGE sql VOLATILE AS \$\$
		SELECT (SELECT count(*) FROM event WHERE user_id = ANY (ids) OR device = ANY (ids))
			 + (SELECT count(*) FROM document WHERE doc #>> '{user,id}' = ANY (ids) OR doc ->> 'device' = ANY (ids))
			 + (SELECT count(*) FROM parted WHERE user_id = ANY (ids)) \$\$;
	CREATE PROCEDURE check_purged(ids text[], what text) LANGUAGE plpgsql AS \$\$
	BEGIN
		IF left_of(ids) > 0 THEN
			RAISE EXCEPTION '% events of % are there %', left_of(ids), ids, what;
		END IF;
	END \$\$;
	CREATE PROCEDURE store_held() LANGUAGE plpgsql AS \$\$
	DECLARE
		c refcursor := 'held';
		e record;
	BEGIN
		LOOP
			FETCH c INTO e;
			EXIT WHEN NOT FOUND;
			INSERT INTO event VALUES (e.u, e.d);
			INSERT INTO parted VALUES (e.u, random() * 100);
		END LOOP;
	END \$\$;
	-- one of the things that can be done to a user, in a race with others
	CREATE PROCEDURE race(u text, d text, way int) LANGUAGE plpgsql AS \$\$
	DECLARE
		ids text[];
	BEGIN
		CASE way
			WHEN 0 THEN
				PERFORM optout.opt_out(u);
			WHEN 1 THEN
				PERFORM optout.opt_in(u);
			WHEN 2 THEN
				PERFORM optout.forget(u, force => true);
				PERFORM optout.enroll(u);
			WHEN 3 THEN
				PERFORM optout.link(u, ARRAY[d]);
			WHEN 4 THEN
				PERFORM optout.unlink(ARRAY[d], force => true);
			ELSE
				CALL optout.purge(ARRAY[u]);
				ids := u || ARRAY(SELECT alias FROM optout.user_alias WHERE user_id = u);
				CALL check_purged(ids, 'right after a purge that others wait for');
				PERFORM pg_sleep(0.005);
				CALL check_purged(ids, 'soon after a purge that others wait for');
		END CASE;
	EXCEPTION WHEN object_not_in_prerequisite_state OR undefined_object OR unique_violation OR deadlock_detected THEN
		NULL;
	END \$\$;
	SET client_min_messages = warning});

my %ingest = (
	guard => q{
		\set u random(0, 7)
		\set d random(0, 7)
		INSERT INTO event VALUES ('u:u', 'd:d'), ('v:u', 'e:d');
		INSERT INTO document VALUES (jsonb_build_object('user', jsonb_build_object('id', 'u:u'), 'device', 'd:d'));
		INSERT INTO parted VALUES ('u:u', :d), ('d:d', :u), ('v:u', :u);},
	filter => q{
		\set u random(0, 7)
		\set d random(0, 7)
		INSERT INTO event SELECT u, 'd:d' FROM unnest(ARRAY['u:u', 'v:u']) AS u WHERE optout.accepts(u) AND optout.accepts('d:d');},
	copy => qq{
		COPY event FROM '$dir/batch';
		COPY parted (user_id, n) FROM PROGRAM 'cut -c 1-2 $dir/batch | head -n 20 | sed "s/\$/\t7/"';},
	transaction => q{
		\set u random(0, 7)
		\set d random(0, 7)
		\set ms random(0, 20)
		BEGIN;
		INSERT INTO event VALUES ('u:u', 'e'), ('x', 'd:d');
		SAVEPOINT s;
		INSERT INTO parted VALUES ('u:u', :d);
		\sleep :ms ms
		ROLLBACK TO s;
		INSERT INTO parted VALUES ('u:u', :d), ('d:d', :d), ('v:u', :d);
		\sleep :ms ms
		COMMIT;},
	prepared => q{
		\set u random(0, 7)
		\set d random(0, 7)
		\set ms random(0, 20)
		BEGIN;
		INSERT INTO event VALUES ('u:u', 'e'), ('v:u', 'd:d');
		PREPARE TRANSACTION 'batch :client_id';
		\sleep :ms ms
		COMMIT PREPARED 'batch :client_id';},
	cursor => q{
		\set ms random(0, 20)
		BEGIN;
		DECLARE held CURSOR WITH HOLD FOR SELECT u, d FROM offer('u') AS o (u text, d text) WHERE optout.accepts(u) AND optout.accepts(d);
		COMMIT;
		\sleep :ms ms
		CALL store_held();
		CLOSE held;});
my $purge = q{
	SET client_min_messages = warning;
	\set u random(0, 3) * 2 + :client_id
	\set ms random(0, 5)
	SELECT optout.opt_out('u:u');
	CALL optout.purge('{u:u}');
	CALL check_purged(ARRAY['u:u', 'd:u'], 'right after they were purged');
	\sleep :ms ms
	CALL check_purged(ARRAY['u:u', 'd:u'], 'a while after they were purged');
	SELECT optout.opt_in('u:u');
	\sleep :ms ms};
my $race = q{
	SET client_min_messages = error;
	\set u random(0, 3)
	\set d random(0, 3)
	\set way random(0, 9)
	CALL race('v:u', 'e:d', :way);};

sub script
{
	my ($name, $text) = @_;

	append_to_file("$dir/$name.sql", "$text\n");
	return "$dir/$name.sql";
}

sub pgbench
{
	my ($err, @options) = @_;

	return IPC::Run::start([ 'pgbench', '-n', '-h', $node->host, '-p', $node->port, @options, 'postgres' ], '>', \my $ignored, '2>', $err);
}

my ($ingest_err, $race_err, $purge_err) = ('', '', '');
my $ingesting = pgbench(\$ingest_err, '-c', 4, '-t', 1_000_000, map { ('-f', script($_, $ingest{$_})) } sort keys %ingest);
my $racing = pgbench(\$race_err, '-c', 3, '-t', 1_000_000, '-f', script('race', $race));
my $purging = pgbench(\$purge_err, '-c', 2, '-t', $rounds, '-f', script('purge', $purge));

# whoever meets an event that should not be there says so, and ends
$purging->finish;
note($_) for grep { $_ } $ingest_err, $race_err, $purge_err;
is($purging->full_result(0), 0, "nothing of $rounds users was there after they had been purged");
unlike($purge_err, qr/are there/, 'by those who have purged them');
for my $load ($ingesting, $racing)
{
	$load->pump_nb;
	ok($load->pumpable, 'the load has gone on until then');
	$load->signal('TERM');
	$load->finish;
}
unlike($race_err, qr/ERROR/, 'nor after purges beside opt_in(), forget(), link() and unlink()');
unlike($ingest_err, qr/ERROR/, 'ingest has not failed');
$node->safe_psql('postgres', q{ROLLBACK PREPARED '} . $_ . q{'})
  for split /\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts');
is($node->safe_psql('postgres', q{SELECT optout.verify(), (SELECT count(*) > 0 FROM event)}), '0|t', 'verify');
cmp_ok($node->safe_psql('postgres', q{SELECT sum(deleted) FROM optout.purges}), '>', $rounds, 'there was much to purge');
cmp_ok($node->safe_psql('postgres', q{SELECT count(DISTINCT purged_at) FROM optout.purges}), '>', 2 * $rounds + 20, 'and many have done so in a race');

#
# A subscriber knows of aliases by their periods only
#
my $subscriber = new_server('subscriber', {}, $settings);
$node->safe_psql('postgres', q{
	SELECT optout.opt_out('alice');
	CREATE PUBLICATION opt_outs FOR TABLE optout.opt_out_period (organization, user_id, opted_out_at, opted_in_at, opted_out_by, opted_in_by, reason, alias_of)});
$subscriber->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	CREATE TABLE event (user_id text, device text);
	INSERT INTO event VALUES ('alice', NULL), ('bob', 'phone'), ('bob', 'tv');
	SELECT optout.guard('event', ARRAY['user_id', 'device']);
	CREATE SUBSCRIPTION ingest CONNECTION 'host=} . $node->host . ' port=' . $node->port . q{ dbname=postgres' PUBLICATION opt_outs});
$subscriber->poll_query_until('postgres', q{SELECT srsubstate = 'r' FROM pg_subscription_rel}) or die 'not copied';
like(errors_of($subscriber, q{CALL optout.purge('{phone}')}), qr/ERROR:  42704: "phone" of organization "default" is an alias, not a user/, 'subscriber: an alias');
is($subscriber->safe_psql('postgres', q{SELECT events FROM optout.stored_events('{alice}')}), '2', 'subscriber: events of user and alias');
$subscriber->safe_psql('postgres', q{CALL optout.purge('{alice}')});
is($subscriber->safe_psql('postgres', 'SELECT user_id, device FROM event'), 'bob|tv', 'subscriber: purged');
# an opt-in that comes meanwhile is applied afterwards
$admin = OptoutTest::Session->new($subscriber);
$admin->query(q{BEGIN; CALL optout.purge('{alice}')});
$node->safe_psql('postgres', q{SELECT optout.opt_in('alice'), optout.opt_out('bob')});
$subscriber->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type LIKE 'logical%' AND wait_event_type = 'Lock'}) or die 'does not wait';
is($admin->query(q{SELECT optout.is_opted_out('alice')}), 't', 'subscriber: an opt-in waits');
$admin->query('COMMIT');
$subscriber->poll_query_until('postgres', q{SELECT NOT optout.is_opted_out('alice') AND optout.is_opted_out('bob')}) or die 'not applied';
$admin->quit;

$subscriber->stop;
$node->stop;
done_testing();
