# Users are administered on one server and events ingested on another, to which
# directory and opt-outs are replicated: initial copy and changes, while both are
# busy, and crashes of either.  Where the publisher's commits wait for the
# subscriber, an opt-out is complete there, too, once it is acknowledged.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutLoad;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $settings = q{
shared_preload_libraries = 'optout'
max_prepared_transactions = 20
autovacuum = off
};
my $publisher = new_server('publisher', { allows_streaming => 'logical' }, $settings);
my $subscriber = new_server('subscriber', { allows_streaming => 'logical' }, $settings);
my $state = q{
	SELECT * FROM optout.product_user ORDER BY organization, user_id;
	SELECT * FROM optout.opt_out_period ORDER BY organization, user_id, opted_out_at};
my $load = OptoutLoad->new($publisher, ingest => $subscriber, two_phase => 1);

$load->setup;
$publisher->safe_psql('postgres', q{
	CREATE PUBLICATION opt_outs FOR TABLE optout.product_user, optout.opt_out_period});

# what the filter has been asked before there was anything to discard
is($subscriber->safe_psql('postgres', "SELECT count(*) FROM generate_series(1, 15) n WHERE optout.accepts('u0-' || n)"),
	15, 'nobody is opted out on the subscriber yet');

#
# Initial copy.  The subscriber lags behind, so it is not known yet what becomes of
# the events of whoever has been opted out at any time.
#
$load->follow(0);
$load->connect;
$load->run(10);

# It waits for prepared transactions, and these for this process.
my $session = OptoutTest::Session->new($subscriber);
$session->begin('CREATE SUBSCRIPTION opt_outs CONNECTION $$' . $publisher->connstr . ' dbname=postgres$$
		PUBLICATION opt_outs WITH (synchronous_commit = on)');
my $done;
until ($done)
{
	$load->run(2);
	$done = $session->poll;
}
until ($session->query("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate IN ('r', 's')") == 2)
{
	$load->run(2);
}
$session->quit;
$load->run(5);
$load->drain;
$publisher->wait_for_catchup('opt_outs');
$load->check('initial copy');
is($subscriber->safe_psql('postgres', $state), $publisher->safe_psql('postgres', $state), 'initial copy: tables are the same');

#
# Changes
#
$publisher->append_conf('postgresql.conf', "synchronous_standby_names = 'opt_outs'\n");
$publisher->reload;
$publisher->poll_query_until('postgres',
	"SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
  or die 'subscriber is not synchronous';
$load->follow(1);
$load->run_and_check(40, 'changes');

for my $round (1 .. OptoutLoad::rounds(2))
{
	$load->run(10 + rand 20);
	usleep(rand 10_000);
	$subscriber->stop('immediate');
	$load->lose('ingest', 'report');
	$subscriber->start;
	$load->reconnect;
	$load->run_and_check(20, "round $round: subscriber crashed");

	$load->run(10 + rand 20);
	usleep(rand 10_000);
	$publisher->stop('immediate');
	$load->lose('admin');
	# meanwhile events come in
	$load->run(10);
	$publisher->start;
	$publisher->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
	  or die 'subscriber does not come back';
	$publisher->wait_for_catchup('opt_outs');
	$load->reconnect;
	$load->run_and_check(20, "round $round: publisher crashed");
}

$load->quit;
is($subscriber->safe_psql('postgres', $state), $publisher->safe_psql('postgres', $state), 'tables are the same');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION opt_outs');
$_->stop for $subscriber, $publisher;
done_testing();
