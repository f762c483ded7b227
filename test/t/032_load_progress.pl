# While one session adds the keys after a start, others see in optout.status how
# far it has come, and none the less get right answers.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use Test::More;

my $node = new_server('main', {}, "shared_preload_libraries = 'optout'\nautovacuum = off");

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by)
		SELECT 'default', 'u' || n, now(), 'x' FROM generate_series(1, 300000) n});

# Two sessions that begin at the same moment: one of them adds the keys, the other
# looks on until they are there.  It may come too late for that, so try again.
my $watch = q{
	CREATE TEMP TABLE seen (state text, progress float8, discarded bool);
	SELECT pg_advisory_lock_shared(1);
	DO $$ DECLARE
		status record;
	BEGIN
		LOOP
			SELECT * INTO status FROM optout.status;
			INSERT INTO seen VALUES (status.shared_filter, status.load_progress, NOT optout.accepts('u300000'));
			EXIT WHEN status.shared_filter = 'ready';
		END LOOP;
	END $$;
	SELECT count(*) FILTER (WHERE state = 'loading' AND progress BETWEEN 0 AND 1),
		   count(*) FILTER (WHERE (state = 'loading') <> (progress IS NOT NULL) AND NOT (state = 'loading' AND progress IS NULL)),
		   bool_and(discarded), max(progress) > min(progress)
	  FROM seen};
my ($seen, $wrong, $grows) = (0, 0, 0);

for my $round (1 .. 20)
{
	$node->restart;
	my $gate = OptoutTest::Session->new($node);
	my @watchers = map { OptoutTest::Session->new($node) } 1 .. 2;

	$gate->query('SELECT pg_advisory_lock(1)');
	$_->begin($watch) for @watchers;
	$_->wait_for_lock($node) for @watchers;
	$gate->query('SELECT pg_advisory_unlock(1)');
	for my $watcher (@watchers)
	{
		my ($out, $err) = $watcher->finish;
		my ($loading, $odd, $discarded, $more) = $out =~ /^(\d+)\|(\d+)\|(\w)\|(\w?)$/m or die "$out$err";

		$seen += $loading;
		$wrong++ if $odd || $discarded ne 't';
		$grows++ if $more eq 't';
	}
	$_->quit for $gate, @watchers;
	last if $grows;
}
cmp_ok($seen, '>', 0, 'loading is seen, and how far it has come');
cmp_ok($grows, '>', 0, 'it goes on');
is($wrong, 0, 'there is progress only then, and answers are right all the time');
is($node->safe_psql('postgres', 'SELECT shared_filter, load_progress IS NULL, optout.verify() FROM optout.status'), 'ready|t|0', 'ready');

$node->stop;
done_testing();
