# Cancels that hit whoever ingests and administers, at any moment, while the keys
# are being added to the filter again and again: what is cancelled has not happened,
# what is acknowledged has, and everybody goes on.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutLoad;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {}, q{
shared_preload_libraries = 'optout'
autovacuum = off
});
my $cancelled = 0;

# Only the statement that was hit may notice.
my $load = OptoutLoad->new(
	$node,
	on_error => sub {
		my ($role, $err) = @_;
		my @errors = $err =~ /(?:ERROR|FATAL|PANIC):  (.*)/g;

		$cancelled++;
		return "@errors" eq '57014: canceling statement due to user request';
	});

$load->setup;
$load->connect;
$load->run_and_check(20, 'before any cancel');

my $canceller = OptoutTest::Session->new($node);
my $disturber = OptoutTest::Session->new($node);

for my $round (1 .. OptoutLoad::rounds(4))
{
	my $goal = $cancelled + 15;
	my $pids = "'{" . join(',', $load->pids('admin', 'ingest')) . "}'::int[]";

	while ($cancelled < $goal)
	{
		$canceller->begin(qq{
			DO \$\$ BEGIN
				FOR i IN 1 .. 100 LOOP
					PERFORM pg_sleep(random() * 0.002);
					PERFORM pg_cancel_backend(pid)
					   FROM unnest($pids) AS pid ORDER BY random() LIMIT 1;
				END LOOP;
			END \$\$});

		# a new version of the trigger: what the filter holds counts no longer
		$disturber->begin(q{
			BEGIN;
			ALTER TABLE optout.opt_out_period DISABLE TRIGGER optout_filter;
			ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter;
			COMMIT});

		# it waits for whoever is in the middle of an opt-out, so all must go on
		for my $session ($canceller, $disturber)
		{
			my @result;

			$load->run(1) until @result = $session->poll;
			die $result[1] if $result[1] ne '';
		}
	}
	$load->drain;
	is($canceller->query('SELECT shared_filter FROM optout.status'), 'ready', "round $round: filter is ready");
	$load->check("round $round");
}
note("$cancelled were cancelled");
$load->run_and_check(20, 'after all cancels');

$_->quit for $load, $canceller, $disturber;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|leak|was terminated by signal|still referenced/, 'nothing leaks');
$node->stop;
done_testing();
