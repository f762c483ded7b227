# Logical replication: into a guarded table, where the guard discards what comes
# in by the initial copy and by the apply worker; and of the opt-outs themselves,
# where the subscriber answers by them as soon as they have been applied.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $publisher = new_server('publisher', { allows_streaming => 'logical' });
my $subscriber = new_server('subscriber', { allows_streaming => 'logical' });
my $connstr = $publisher->connstr . ' dbname=postgres';

sub subscribe
{
	my ($name, $publication) = @_;

	$subscriber->safe_psql('postgres',
		"CREATE SUBSCRIPTION $name CONNECTION '$connstr' PUBLICATION $publication");
	$subscriber->wait_for_subscription_sync($publisher, $name);
}

sub stored_events
{
	my ($table) = @_;

	return $subscriber->safe_psql('postgres',
		"SELECT string_agg(event_id || ' ' || user_id || ' ' || what, ', ' ORDER BY event_id) FROM $table");
}

#
# Events are published; who is opted out is known to the subscriber only.
#
$publisher->safe_psql('postgres', q{
	CREATE TABLE event (event_id int PRIMARY KEY, user_id text, what text);
	CREATE TABLE parted (event_id int PRIMARY KEY, user_id text, what text);
	INSERT INTO event VALUES (1, 'alice', 'copied'), (2, 'bob', 'copied'), (3, 'carol', 'copied');
	INSERT INTO parted SELECT * FROM event;
	CREATE PUBLICATION events FOR TABLE event, parted});
$subscriber->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(ARRAY['alice', 'bob', 'carol']);
	SELECT optout.opt_out('alice');
	CREATE TABLE event (event_id int PRIMARY KEY, user_id text, what text);
	SELECT optout.guard('event');
	-- from PostgreSQL 16 on, a table's owner applies its changes
	CREATE ROLE writer;
	ALTER TABLE event OWNER TO writer;
	REVOKE USAGE ON SCHEMA optout FROM PUBLIC;
	CREATE TABLE parted (what text, user_id text, event_id int PRIMARY KEY) PARTITION BY RANGE (event_id);
	CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (100);
	SELECT optout.guard('parted');
	CREATE TABLE parted_high (event_id int NOT NULL, what text, user_id text);
	ALTER TABLE parted ATTACH PARTITION parted_high FOR VALUES FROM (100) TO (MAXVALUE)});
subscribe('events', 'events');

is(stored_events($_), '2 bob copied, 3 carol copied', "initial copy is filtered: $_")
  for 'event', 'parted';

$publisher->safe_psql('postgres', qq{
	INSERT INTO $_ VALUES (4, 'alice', 'inserted'), (5, 'bob', 'inserted'), (104, 'alice', 'inserted'), (105, 'bob', 'inserted');
	UPDATE $_ SET user_id = 'alice' WHERE event_id = 2;
	UPDATE $_ SET what = 'updated' WHERE event_id = 3;
	DELETE FROM $_ WHERE event_id = 5;
	DELETE FROM $_ WHERE event_id = 4})
  for 'event', 'parted';
$publisher->wait_for_catchup('events');

is(stored_events($_), '2 bob copied, 3 carol updated, 105 bob inserted', "changes are filtered: $_")
  for 'event', 'parted';

# The apply worker keeps running; it must not keep an answer.
$subscriber->safe_psql('postgres', q{SELECT optout.opt_in('alice'), optout.opt_out('bob')});
$publisher->safe_psql('postgres', qq{
	TRUNCATE $_;
	INSERT INTO $_ VALUES (7, 'alice', 'opted in'), (8, 'bob', 'opted out'), (107, 'alice', 'opted in'), (108, 'bob', 'opted out')})
  for 'event', 'parted';
$publisher->wait_for_catchup('events');

is(stored_events($_), '7 alice opted in, 107 alice opted in', "changes after opt-out and opt-in: $_")
  for 'event', 'parted';

$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION events; TRUNCATE event; DROP EXTENSION optout CASCADE');

#
# Users are administered on one server, and events ingested on another.
#
$publisher->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(ARRAY['alice', 'bob', 'carol', 'dave'], o) FROM unnest('{default,acme}'::text[]) AS o;
	SELECT optout.opt_out(ARRAY['carol', 'dave'], 'acme');
	SELECT optout.opt_in('dave', 'acme');
	CREATE PUBLICATION opt_outs FOR TABLE optout.product_user, optout.opt_out_period});
$subscriber->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	CREATE TABLE guarded (user_id text, organization text, what text);
	SELECT optout.guard('guarded', organization => 'organization')});
subscribe('opt_outs', 'opt_outs');

# Sessions that ran all the time, one of them within one snapshot.
my $plain = OptoutTest::Session->new($subscriber);
my $repeatable_read = OptoutTest::Session->new($subscriber);
$repeatable_read->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM optout.opt_out_period');

sub check_subscriber
{
	my ($user, $organization, $accepted, $what) = @_;

	$publisher->wait_for_catchup('opt_outs');
	for my $session ($plain, $repeatable_read)
	{
		my $isolation = $session->query('SHOW transaction_isolation');

		is($session->query("SELECT optout.accepts('$user', '$organization')"),
			$accepted ? 't' : 'f', "$what: filter, $isolation");
		$session->query("INSERT INTO guarded VALUES ('$user', '$organization', '$what')");
		is($session->query("SELECT count(*) FROM guarded WHERE what = '$what'"),
			$accepted ? 1 : 0, "$what: guard, $isolation");
		$session->query('DELETE FROM guarded');
	}
}

check_subscriber('carol', 'acme', 0, 'opted out before the subscription');
check_subscriber('dave', 'acme', 1, 'opted in before the subscription');
check_subscriber('alice', 'acme', 1, 'never opted out');

$publisher->safe_psql('postgres', q{SELECT optout.opt_out('alice', 'acme')});
check_subscriber('alice', 'acme', 0, 'opted out');
check_subscriber('alice', 'default', 1, 'opted out elsewhere');
$publisher->safe_psql('postgres', q{SELECT optout.opt_in('alice', 'acme')});
check_subscriber('alice', 'acme', 1, 'opted in');
$publisher->safe_psql('postgres', q{SELECT optout.opt_out('alice', 'acme')});
check_subscriber('alice', 'acme', 0, 'opted out again');
$publisher->safe_psql('postgres', q{BEGIN; SELECT optout.opt_in('alice', 'acme'); ROLLBACK});
check_subscriber('alice', 'acme', 0, 'opt-in rolled back');
$publisher->safe_psql('postgres', q{SELECT optout.forget('alice', 'acme', force => true)});
check_subscriber('alice', 'acme', 1, 'forgotten');
$publisher->safe_psql('postgres', q{SELECT optout.opt_out('bob')});
check_subscriber('bob', 'default', 0, 'opted out of the default organization');
$publisher->safe_psql('postgres', 'TRUNCATE optout.opt_out_period');
$repeatable_read->query('COMMIT');
check_subscriber('bob', 'default', 1, 'all opt-outs truncated');

my $state = q{
	SELECT * FROM optout.product_user ORDER BY organization, user_id;
	SELECT * FROM optout.opt_out_period ORDER BY organization, user_id, opted_out_at};
is($subscriber->safe_psql('postgres', $state), $publisher->safe_psql('postgres', $state),
	'directory and periods are the same');

$_->quit for $plain, $repeatable_read;
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION opt_outs');
$_->stop for $subscriber, $publisher;
done_testing();
