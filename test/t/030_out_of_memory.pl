# A session that runs out of memory while it looks users up fails with an error,
# and goes on to give the right answers.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'no prlimit' if system('prlimit --version >/dev/null 2>&1') != 0;
plan skip_all => 'no /proc' unless -r "/proc/$$/status";

# More users than the memo may read all at once, so that it grows one by one.
my $users = 20000;
my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nautovacuum = off\nwork_mem = '512kB'\nhash_mem_multiplier = 2\n");
$node->safe_psql('postgres', qq{
	CREATE EXTENSION optout;
	SELECT optout.enroll(array_agg('p' || n)) FROM generate_series(1, $users) AS n;
	SELECT optout.opt_out(array_agg('p' || n)) FROM generate_series(1, $users) AS n;
	SELECT optout.opt_in(array_agg('p' || n)) FROM generate_series(1, $users) AS n;
	SELECT optout.enroll(array_agg('q' || n)) FROM generate_series(1, $users) AS n;
	ANALYZE optout.opt_out_period});

# The p users were out then, which filter and cache do not know.
my $then = $node->safe_psql('postgres', q{SELECT max(opted_out_at) FROM optout.opt_out_history WHERE user_id LIKE 'p%'});

my ($session, $pid);

sub new_session
{
	$session->quit if defined $session;
	$session = OptoutTest::Session->new($node);
	$pid = $session->pid;
}

# Execute with so many kB more than the session has now.  Returns what it reports.
sub run_with
{
	my ($kb, $sql) = @_;
	my ($now) = slurp_file("/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m;

	system_or_bail('prlimit', '--pid', $pid, '--as=' . ($now + $kb) * 1024 . ':');
	$session->begin($sql);
	my ($out, $err) = $session->finish;
	system_or_bail('prlimit', '--pid', $pid, '--as=unlimited:');
	return $err;
}

# How many of the first users of these names are accepted.
sub accepted
{
	my ($name, $from, $to) = @_;

	my $at = $name eq 'p' ? ", occurred_at => '$then'" : '';

	return "SELECT count(*) FROM generate_series($from, $to) AS n WHERE optout.accepts('$name' || n$at)";
}

#
# Who asks, as the memo grows.  It may run out of memory elsewhere first; then
# another session tries with some more.
#
my $grew = 0;
for (my $kb = 300; !$grew && $kb <= 500; $kb += 20)
{
	my $err = '';
	my $asked;

	new_session();
	is($session->query(accepted('p', 1, 1000)), '0', "$kb kB");
	for ($asked = 1000; $err eq '' && $asked < 16000; $asked += 500)
	{
		$err = run_with($kb, accepted('p', $asked + 1, $asked + 500));
	}
	next if $err eq '';
	like($err, qr/ERROR:  53200: out of memory/, "$kb kB: asking for $asked");
	is($session->query(accepted('p', 1, 16000)), '0', "$kb kB: after asking for $asked: opted out");
	is($session->query(accepted('q', 1, 16000)), '16000', "$kb kB: after asking for $asked: others");
	$grew = 1 if $err =~ /in memory context "optout memo"/;
}
ok($grew, 'the memo ran out of memory');

#
# Who administers: all users or none.
#
my $list = q{SELECT count(*) FROM optout.opt_out_list WHERE user_id LIKE 'q%'};
my %done = (opt_out => $users, opt_in => 0);
for my $function ('opt_out', 'opt_in')
{
	# memory that a session has used before it has for good
	new_session();
	my $failed = 0;
	for (my $kb = 256; ; $kb *= 2)
	{
		my $before = $node->safe_psql('postgres', $list);
		my $err = run_with($kb, "SELECT optout.$function(ARRAY(SELECT 'q' || n FROM generate_series(1, $users) AS n))");

		if ($err eq '')
		{
			is($node->safe_psql('postgres', $list), $done{$function}, "$function with $kb kB: all");
			last;
		}
		$failed++;
		like($err, qr/ERROR:  53200: out of memory/, "$function with $kb kB");
		is($node->safe_psql('postgres', $list), $before, "$function with $kb kB: none");
		for my $asked (1, 500)
		{
			is($session->query(accepted('q', 1, $asked)), $before ? 0 : $asked, "$function with $kb kB: $asked asked");
		}
		is($session->query(accepted('p', 1, 500)), '0', "$function with $kb kB: the others");
		is($node->safe_psql('postgres', 'SELECT optout.verify()'), '0', "$function with $kb kB: verify");
	}
	cmp_ok($failed, '>', 0, "$function ran out of memory");
}
is($session->query(accepted('q', 1, $users)), $users, 'all in again');
is($node->safe_psql('postgres', 'SELECT optout.verify()'), '0', 'verify');

$session->quit;
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'no crash');
$node->stop;
done_testing();
