# On a standby, whose rows come without a trigger, the table answers; from the
# promotion on the filter does, in sessions that were connected before, too, even
# in the middle of a transaction.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', { allows_streaming => 1 },
	"shared_preload_libraries = 'optout'\nmax_prepared_transactions = 10\nautovacuum = off\n");

$primary->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 40) n;
	SELECT optout.opt_out('u1');
	CREATE TABLE event (user_id text);
	SELECT optout.guard('event')});
$primary->backup('base');
my $standby = OptoutTest::Server->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

my %out = (u1 => 1);
my $discarded = q{
	SELECT coalesce(string_agg(u, ' ' ORDER BY u) FILTER (WHERE NOT optout.accepts(u)), '-') || ' / ' ||
		   coalesce(string_agg(u, ' ' ORDER BY u) FILTER (WHERE optout.is_opted_out(u)), '-')
	  FROM (SELECT 'u' || n AS u FROM generate_series(1, 40) AS n) AS s};
my $status = 'SELECT shared_filter, optout.verify() FROM optout.status';
my $counts = 'SELECT lookups_filter, lookups_memo, lookups_table FROM optout.status';

# connected before the promotion: idle, in a transaction, and one that has not yet
# asked anything
my ($idle, $open, $silent) = map { OptoutTest::Session->new($standby) } 1 .. 3;
$open->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM optout.opt_out_period');

sub check
{
	my ($what, $shared_filter) = @_;
	my $list = join(' ', sort keys %out) || '-';

	for my $session ($idle, $open)
	{
		my $which = $session == $idle ? 'old session' : 'in a transaction';

		is($session->query("$discarded; $discarded"), join("\n", ("$list / $list") x 2), "$what: $which");
		is($session->query($status), "$shared_filter|0", "$what: $which, status");
	}
	is($standby->safe_psql('postgres', "SET optout.filter = off; $discarded"), "$list / $list", "$what: table");
	is($standby->safe_psql('postgres', $discarded), "$list / $list", "$what: new session");
}

sub replayed
{
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
}

replayed();
check('standby', 'not used');
for my $change ([ "SELECT optout.opt_out('u2')", 'u2' ], [ "SELECT optout.opt_in('u1')", undef, 'u1' ],
	[ q{BEGIN; ALTER TABLE optout.opt_out_period DISABLE TRIGGER ALL;
		INSERT INTO optout.opt_out_period VALUES ('default', 'u3', now(), NULL, 'x');
		ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter; COMMIT}, 'u3' ],
	[ "SELECT optout.forget('u2', force => true); SELECT optout.enroll('u2')", undef, 'u2' ],
	[ "BEGIN; SELECT optout.opt_out('u4'); PREPARE TRANSACTION 'out'" ],
	[ "BEGIN; SELECT optout.opt_out('u5'); PREPARE TRANSACTION 'on primary'; COMMIT PREPARED 'on primary'", 'u5' ],
	[ "SELECT optout.opt_out(array_agg('u' || n)) FROM generate_series(10, 15) n", map { "u$_" } 10 .. 15 ])
{
	my ($sql, @users) = @$change;

	if (defined $users[0]) { $out{$_} = 1 for @users }
	else { delete $out{$_} for grep { defined $_ } @users }
	$primary->safe_psql('postgres', $sql);

	# what it does with a lock on the table would wait for whoever reads it
	$open->query('COMMIT') if $sql =~ /ALTER/;
	replayed();
	$open->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class') if $sql =~ /ALTER/;
	check("standby: $sql", 'not used');
}
my @before = split /\|/, $idle->query($counts);
$idle->query($discarded);
my @after = split /\|/, $idle->query($counts);
is("$before[0] $before[1], $after[0] $after[1]", '0 0, 0 0', 'neither filter nor memo answers on a standby');
is($after[2] - $before[2], 80, 'but the table');

#
# Promotion
#
my $uncommitted = OptoutTest::Session->new($primary);
$uncommitted->query(q{BEGIN; SELECT optout.opt_out('u20')});
$primary->safe_psql('postgres', 'CHECKPOINT');
replayed();
$primary->stop('immediate');
$uncommitted->quit;
$standby->promote;

check('promoted', 'ready');
@before = split /\|/, $idle->query($counts);
is($idle->query(q{SELECT optout.accepts('u30'), optout.accepts('u31')}), 't|t', 'promoted: filter answers');
@after = split /\|/, $idle->query($counts);
is($after[0] - $before[0], 2, 'promoted: filter answers');

for my $change ([ "COMMIT PREPARED 'out'", 'u4' ], [ "SELECT optout.opt_out('u21')", 'u21' ],
	[ "SELECT optout.opt_in('u10')", undef, 'u10' ], [ "SELECT optout.opt_out('u20')", 'u20' ])
{
	my ($sql, @users) = @$change;

	if (defined $users[0]) { $out{$_} = 1 for @users }
	else { delete $out{$users[1]} }
	$standby->safe_psql('postgres', $sql);
	check("promoted: $sql", 'ready');
}
$open->query('COMMIT');
check('promoted, transaction ended', 'ready');
is($silent->query($discarded), $idle->query($discarded), 'session that has not asked before');
is($silent->query("INSERT INTO event SELECT 'u' || n FROM generate_series(1, 40) n; SELECT count(*) FROM event"),
	40 - keys %out, 'guard');

$_->quit for $idle, $open, $silent;
$standby->stop;
done_testing();
