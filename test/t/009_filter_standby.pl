# On a standby nobody sets the filter's bits, so the table answers there; after a
# promotion without a restart the filter is loaded, also for sessions that were
# connected before.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', { allows_streaming => 1 }, "shared_preload_libraries = 'optout'\n");
$primary->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll('{a,b,c,kept}'::text[]), optout.opt_out('a')});

$primary->backup('backup');
my $standby = OptoutTest::Server->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

my $discarded = q{SELECT COALESCE(string_agg(u, ' ' ORDER BY u), '-')
	FROM unnest('{a,b,c,kept}'::text[]) AS u WHERE NOT optout.accepts(u)};
my $status = 'SELECT shared_filter, optout.verify() FROM optout.status';
my $old = OptoutTest::Session->new($standby);

sub check
{
	my ($expected, $expected_status, $what) = @_;

	is($old->query($discarded), $expected, "$what: old session");
	is($standby->safe_psql('postgres', $discarded), $expected, "$what: new session");
	is($old->query($status), "$expected_status|0", "$what: status");
}

$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
check('a', 'not used', 'standby');
$primary->safe_psql('postgres', "SELECT optout.opt_out('b')");
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
check('a b', 'not used', 'standby, opted out');
$primary->safe_psql('postgres', "SELECT optout.opt_in('a')");
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
check('b', 'not used', 'standby, opted in');

$standby->promote;
check('b', 'ready', 'promoted');
$standby->safe_psql('postgres', "SELECT optout.opt_out('c')");
check('b c', 'ready', 'promoted, opted out');

$old->quit;
$standby->stop;
$primary->stop;
done_testing();
