# Who asks from within the command that writes to the state table, in a trigger of
# a site's own, is answered by what the command has written so far.  Nothing of it
# gets out to others before the commit, nor is anything left of it if it fails.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nautovacuum = off\n");
my $next = 0;

# users who have never been out, who were and are known to be in, and who are out
sub never { my $u = 'n' . ++$next; $node->safe_psql('postgres', "SELECT optout.enroll('$u')"); return $u }
sub was { my $u = never(); $node->safe_psql('postgres', "SELECT optout.opt_out('$u'); SELECT optout.opt_in('$u'); SELECT optout.accepts('$u')"); return $u }
sub is_out { my $u = never(); $node->safe_psql('postgres', "SELECT optout.opt_out('$u'); SELECT optout.accepts('$u')"); return $u }

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	CREATE TABLE heard (trigger text, user_id text, accepted boolean, counted boolean);
	CREATE FUNCTION ask() RETURNS trigger LANGUAGE plpgsql AS $$
	DECLARE
		u text;
		accepted boolean;
	BEGIN
		FOREACH u IN ARRAY string_to_array(current_setting('test.users'), ' ') LOOP
			accepted := optout.accepts(u);
			IF current_setting('test.fails') = 'on' THEN
				RAISE EXCEPTION 'accepted: %', accepted;
			END IF;
			INSERT INTO public.heard VALUES (TG_NAME, u, accepted, NOT optout.is_opted_out(u));
		END LOOP;
		RETURN NULL;
	END $$;
	ALTER DATABASE postgres SET test.users = '';
	ALTER DATABASE postgres SET test.fails = 'off'});
my $witness = OptoutTest::Session->new($node);
$witness->query('SELECT optout.accepts($$nobody$$)');

for my $name ('aaa', 'zzz')
{
	$node->safe_psql('postgres', "CREATE TRIGGER $name AFTER INSERT OR UPDATE OR DELETE ON optout.opt_out_period FOR EACH ROW EXECUTE FUNCTION ask()");
	for my $kind ('never', 'was', 'is_out')
	{
		my $make = { never => \&never, was => \&was, is_out => \&is_out }->{$kind};
		my ($a, $b) = map { $make->() } 1 .. 2;
		my ($do, $accepted) = $kind eq 'is_out' ? ('opt_in', 't') : ('opt_out', 'f');
		my $other = $accepted eq 't' ? 'f' : 't';
		my $session = OptoutTest::Session->new($node);

		# filter, cache and memo have been asked before
		my $ask = "SELECT string_agg(optout.accepts(u)::text, ' ') FROM unnest('{$a,$b}'::text[]) u";
		is($_->query("$ask; $ask"), join("\n", (($other eq 't' ? 'true true' : 'false false')) x 2), "$name, $kind: before")
		  for $session, $witness;

		# a failure in the first row's trigger, after it has asked for the second's user
		for my $way ("SELECT optout.$do('{$a,$b}'::text[])",
			"BEGIN; SELECT optout.accepts('nobody'); SAVEPOINT s; SELECT optout.$do('{$a,$b}'::text[])")
		{
			$session->query("SET test.users = '$b'; SET test.fails = 'on'");
			my $failed = $session->query_fails($way);
			like($failed, qr/accepted: $accepted/, "$name, $kind: $do fails, the trigger was told");
			$session->query('ROLLBACK TO s; COMMIT') if $way =~ /^BEGIN/;
			is($_->query($ask), $other eq 't' ? 'true true' : 'false false', "$name, $kind: $do has failed, nothing is left")
			  for $witness, $session;
			is($node->safe_psql('postgres', $ask), $other eq 't' ? 'true true' : 'false false', "$name, $kind: $do has failed, new session");
		}

		# and one that goes through
		$session->query("SET test.users = '$a $b'; SET test.fails = 'off'; BEGIN; SELECT optout.accepts('nobody'); SELECT optout.$do('{$a,$b}'::text[])");
		is($session->query('SELECT count(*), count(DISTINCT user_id), bool_or(accepted), bool_and(accepted), bool_or(counted), bool_and(counted) FROM heard'),
			join('|', 4, 2, ($accepted) x 4), "$name, $kind: the trigger is told of both, in both rows");
		is($session->query($ask), $accepted eq 't' ? 'true true' : 'false false', "$name, $kind: the next statement");
		is($witness->query($ask), $other eq 't' ? 'true true' : 'false false', "$name, $kind: others, before the commit");
		$session->query('COMMIT; TRUNCATE heard');
		is($_->query($ask), $accepted eq 't' ? 'true true' : 'false false', "$name, $kind: after the commit") for $witness, $session;
		$session->quit;
	}
	$node->safe_psql('postgres', "DROP TRIGGER $name ON optout.opt_out_period");
}

# Reading the table is no reason to go by it.
my $lookups = 'SELECT lookups_table FROM optout.status';
my $read = 'SELECT count(*) FROM optout.opt_out_list WHERE optout.accepts(user_id)';
my $out = is_out();
# whom the cache has put into the same group is not in it any more
$witness->query($read);
my $n = $witness->query($lookups);
$witness->query($read);
is($witness->query($lookups), $n, 'the filter answers within a query that reads the table');

# Workers of a parallel query that a trigger runs see the rows that are pending in the
# transaction that they work for.
$node->safe_psql('postgres', q{
	CREATE TABLE event AS SELECT 'nobody' AS user_id FROM generate_series(1, 100);
	ALTER TABLE event SET (parallel_workers = 2);
	CREATE FUNCTION count_in_parallel() RETURNS SETOF bigint LANGUAGE plpgsql
		SET parallel_setup_cost = 0 SET parallel_tuple_cost = 0 SET min_parallel_table_scan_size = 0 SET parallel_leader_participation = off
		AS 'BEGIN RETURN QUERY SELECT count(*) FROM public.event WHERE optout.is_opted_out(user_id); END';
	CREATE FUNCTION note_count() RETURNS trigger LANGUAGE plpgsql
		AS 'BEGIN INSERT INTO public.heard (user_id) SELECT public.count_in_parallel(); RETURN NULL; END';
	TRUNCATE heard;
	CREATE TRIGGER aaa AFTER INSERT ON optout.opt_out_period FOR EACH ROW EXECUTE FUNCTION note_count()});
my $pending = never();
$node->safe_psql('postgres', "UPDATE event SET user_id = '$pending'");
is($witness->query("BEGIN; SELECT optout.opt_out('$pending'); SELECT user_id FROM heard; SELECT count_in_parallel(); COMMIT"),
	"t\n100\n100", 'parallel workers, in the trigger and in the next statement');
$node->safe_psql('postgres', 'DROP TRIGGER aaa ON optout.opt_out_period');

# A trigger that fires when the transaction commits is none that the filter can rely on.
$node->safe_psql('postgres', q{
	DROP TRIGGER optout_filter ON optout.opt_out_period;
	CREATE CONSTRAINT TRIGGER optout_filter AFTER INSERT OR UPDATE OR DELETE ON optout.opt_out_period
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION optout.add_to_filter();
	ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter});
my $new = never();
is($witness->query("SELECT shared_filter FROM optout.status; BEGIN; SELECT optout.opt_out('$new'), optout.accepts('$new'); SELECT optout.accepts('$new'); COMMIT"),
	"not used\nt|f\nf", 'a deferred trigger');

$witness->quit;
$node->stop;
done_testing();
