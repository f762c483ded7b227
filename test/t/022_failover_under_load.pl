# A standby to which commits are applied before they are acknowledged: its reports
# are right at every moment while opt-outs and batches go on at the primary, and
# nothing that was acknowledged is lost when the primary is gone and the standby
# promoted; ingest goes on there.
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
my $number = 0;
my @servers = new_server('server0', { allows_streaming => 1 }, $settings);
my $load = OptoutLoad->new($servers[0], two_phase => 1, reporters => 2);

$load->setup;

# It has applied all that has been committed so far, acknowledged or not.
sub replayed
{
	my ($primary, $standby) = @_;

	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
}

sub add_standby
{
	my $standby = OptoutTest::Server->new('server' . ++$number);

	$servers[-1]->backup("base$number");
	$standby->init_from_backup($servers[-1], "base$number", has_streaming => 1);
	# what was copied is of the server it was copied from
	$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''\nsynchronous_commit = on\n");
	$standby->start;
	$servers[-1]->append_conf('postgresql.conf', "synchronous_standby_names = '*'\nsynchronous_commit = remote_apply\n");
	$servers[-1]->reload;
	$servers[-1]->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
	  or die 'standby is not synchronous';
	# commits wait for it from when the checkpointer has read the settings
	$servers[-1]->safe_psql('postgres', 'CHECKPOINT');
	replayed($servers[-1], $standby);
	push @servers, $standby;
	$load->{nodes}{report} = $standby;
}

sub fail_over
{
	my $old = shift @servers;

	$old->stop('immediate');
	$load->lose('admin', 'ingest');

	# who asks the standby need not notice
	$load->run(20, 'report');
	$servers[0]->promote;
	$load->run(20, 'report');
	$load->{nodes}{$_} = $servers[0] for 'admin', 'ingest', 'report';
}

add_standby();
$load->connect;
$load->run_and_check(30, 'primary with a standby');
is($servers[1]->safe_psql('postgres', 'SELECT shared_filter, optout.verify() FROM optout.status'),
	'not used|0', 'filter of the standby');

for my $round (1 .. OptoutLoad::rounds(2))
{
	# both of them crash before one is promoted
	$load->run(10 + rand 20);
	$servers[0]->stop('immediate');
	$load->lose('admin', 'ingest');
	$servers[1]->stop('immediate');
	$load->lose('report');
	$servers[1]->start;
	$servers[0]->start;
	replayed(@servers);
	$load->reconnect;
	$load->check("round $round: both crashed");

	$load->run(20 + rand 30);
	usleep(rand 10_000);
	fail_over();
	$load->reconnect;
	$load->check("round $round: promoted");
	$load->run_and_check(30, "round $round: goes on");

	$load->quit;
	add_standby();
	$load->connect;
}
$load->run_and_check(30, 'after all failovers');

$load->quit;
$_->stop for reverse @servers;
done_testing();
