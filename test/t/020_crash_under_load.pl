# Crashes while sessions ingest and administer: kill -9 of one of them or of the
# whole server, and immediate shutdowns.  What was acknowledged is there, what was
# not is there as a whole or not at all, no batch holds an event of a user who was
# opted out before it was begun, and the ledger counts what is missing.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutLoad;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_server('main', {}, q{
shared_preload_libraries = 'optout'
restart_after_crash = on
autovacuum = off
});
my $load = OptoutLoad->new($node);

$load->setup;
$load->connect;
$load->run_and_check(30, 'before any crash');

my @faults = map { ('ingest', 'admin', 'stop') } 1 .. OptoutLoad::rounds(3);

while (my $fault = shift @faults)
{
	my $what = @faults . " to go: $fault";

	$load->run(10 + rand 40);
	usleep(rand 10_000);
	if ($fault eq 'stop')
	{
		$node->stop('immediate');
		$load->lose;
		$node->start;
	}
	else
	{
		my @pids = $load->pids($fault);
		my $log_offset = -s $node->logfile;

		kill 'KILL', $pids[ rand @pids ];
		$load->lose;
		$node->wait_for_log(qr/all server processes terminated; reinitializing/, $log_offset);
		$node->poll_query_until('postgres', 'SELECT true') or die 'server does not come back';
	}
	$load->reconnect;
	$load->check($what);
}
$load->run_and_check(30, 'after all crashes');

$load->quit;
$node->stop;
done_testing();
