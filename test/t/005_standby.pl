# A hot standby answers who is opted out as of what it has replayed, refuses to
# administer, and takes over when it is promoted.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', { allows_streaming => 1 });
$primary->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	CREATE ROLE admin;
	SELECT optout.grant_authority('admin', 'acme', 'administer');
	SELECT optout.enroll(ARRAY['alice', 'bob'], o) FROM unnest('{default,acme}'::text[]) AS o;
	SELECT optout.opt_out('bob');
	CREATE TABLE event (user_id text);
	SELECT optout.guard('event');
	CREATE TABLE unguarded (user_id text)});

$primary->backup('base');
my $standby = OptoutTest::Server->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# Sessions of the standby that run all the time, one of them with one snapshot.
my $plain = OptoutTest::Session->new($standby);
my $repeatable_read = OptoutTest::Session->new($standby);
$repeatable_read->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM optout.opt_out_period');

sub check_answers
{
	my ($expected, $what) = @_;

	$primary->wait_for_catchup($standby);
	for my $session ($plain, $repeatable_read)
	{
		my $isolation = $session->query('SHOW transaction_isolation');

		is( $session->query(q{
				SELECT string_agg(u, ' ' ORDER BY u) FILTER (WHERE optout.is_opted_out(u)),
					   string_agg(u, ' ' ORDER BY u) FILTER (WHERE NOT optout.accepts(u)),
					   string_agg(u, ' ' ORDER BY u) FILTER (WHERE NOT optout.accepts(u, 'acme'))
				  FROM unnest('{alice,bob,nobody}'::text[]) AS u}),
			"$expected|$expected|", "$what: functions, $isolation");
	}
	is( $plain->query(q{
			SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM optout.opt_out_list;
			SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM optout.user_list WHERE opted_out}),
		"$expected\n$expected", "$what: views");
}

check_answers('bob', 'backup');
$primary->safe_psql('postgres', q{SELECT optout.opt_out('alice')});
check_answers('alice bob', 'opt-out');
$primary->safe_psql('postgres', q{SELECT optout.opt_in('bob')});
check_answers('alice', 'opt-in');
$primary->safe_psql('postgres', q{BEGIN; SELECT optout.opt_in('alice'), optout.opt_out('bob'); ROLLBACK});
check_answers('alice', 'rolled back');

is( $repeatable_read->query(q{
		SELECT string_agg(user_id, ' ') FROM optout.opt_out_list;
		SELECT count(*) FROM optout.opt_out_history;
		SELECT count(*) FROM optout.discards;
		SELECT relation, fires FROM optout.guarded}),
	"bob\n1\n0\nevent|always",
	'views show the one snapshot of a REPEATABLE READ transaction');
$repeatable_read->query('COMMIT');

like( errors_of($standby, "SELECT $_"),
	qr/ERROR:  25006: cannot execute optout\.\w+\(\) in a read-only transaction/,
	"standby refuses $_")
  for q{optout.opt_out('bob')}, q{optout.opt_out(ARRAY['bob', 'alice'])},
  q{optout.opt_in('alice')}, q{optout.opt_in(ARRAY['alice'])},
  q{optout.enroll('carol')}, q{optout.sign_in('alice')}, q{optout.forget('bob')},
  q{optout.grant_authority('admin', 'default', 'read')},
  q{optout.revoke_authority('admin', 'acme', 'administer')};

# What is stored there can be counted, not deleted.
$primary->safe_psql('postgres', q{INSERT INTO event VALUES ('bob')});
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT * FROM optout.stored_events('{alice,bob}')}), 'event|1', 'standby: stored_events');
like(errors_of($standby, q{CALL optout.purge('{alice}', dry_run => true)}), qr/NOTICE:  \S*:? ?would delete 0 events from table public\.event/, 'standby: dry run');
like(errors_of($standby, q{CALL optout.purge('{alice}')}), qr/ERROR:  25006: cannot execute optout\.purge\(\) in a read-only transaction/, 'standby refuses purge');
$primary->safe_psql('postgres', 'DELETE FROM event');

# So does a transaction that is read-only on the primary.
like( errors_of($primary, q{BEGIN READ ONLY; SELECT optout.opt_out('bob')}),
	qr/ERROR:  25006: cannot execute optout\.\w+\(\) in a read-only transaction/,
	'read-only transaction refuses to opt out');

# An administrator and a stranger get the same answers as on the primary.
is( $standby->safe_psql('postgres', q{
		SET ROLE admin; SELECT count(*), min(organization) FROM optout.user_list}),
	'2|acme', 'views of the standby show an administrator their organization only');
like( errors_of($standby, q{SET ROLE admin; SELECT optout.opt_out('bob', 'default')}),
	qr/ERROR:  42501: permission denied for organization "default"/,
	'standby tells an administrator of another organization the same');

#
# Failover, with sessions that go on.
#
$primary->stop('immediate');
$standby->promote;

is( $plain->query(q{
		SELECT optout.opt_out('bob'), optout.opt_in('alice');
		INSERT INTO event VALUES ('alice'), ('bob'), ('nobody');
		INSERT INTO unguarded SELECT u FROM unnest('{alice,bob,nobody}'::text[]) AS u WHERE optout.accepts(u);
		SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM event;
		SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM unguarded}),
	"t|t\nalice nobody\nalice nobody",
	'promoted standby administers and discards');
is( $standby->safe_psql('postgres', q{
		SELECT user_id, opted_in_at IS NULL FROM optout.opt_out_history ORDER BY user_id, opted_out_at}),
	"alice|f\nbob|f\nbob|t", 'history goes on');

$_->quit for $plain, $repeatable_read;
$standby->stop;
done_testing();
