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
	"shared_preload_libraries = 'optout'\nautovacuum = off\nmax_connections = 20\n"
	  . "work_mem = '512kB'\nhash_mem_multiplier = 2\n");
$node->safe_psql('postgres', qq{
	CREATE EXTENSION optout;
	SELECT optout.enroll(array_agg('p' || n)) FROM generate_series(1, $users) AS n;
	SELECT optout.opt_out(array_agg('p' || n)) FROM generate_series(1, $users) AS n;
	ANALYZE optout.opt_out_period});

my $session = OptoutTest::Session->new($node);
my $pid = $session->pid;
my $ask = sub { my ($from, $to) = @_;
	return "SELECT count(*) FROM generate_series($from, $to) AS n WHERE optout.accepts('p' || n)"; };

sub limit
{
	my ($bytes) = @_;

	system_or_bail('prlimit', '--pid', $pid, "--as=$bytes:");
}

my $failed = 0;
my $asked = 0;
is($session->query($ask->(1, 1000)), '0', 'memo begun');
$asked = 1000;
while ($asked < 16000)
{
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m;

	limit($kb * 1024 + 300000);
	$session->begin($ask->($asked + 1, $asked + 500));
	my ($out, $err) = $session->finish;
	limit('unlimited');
	if ($err =~ /ERROR:  53200/)
	{
		$failed++;
		is($session->query($ask->(1, 16000)), '0', "after out of memory at $asked");
		is($session->query("SELECT count(*) FROM generate_series(1, 16000) AS n WHERE optout.accepts('q' || n)"), '16000', "after out of memory at $asked: others");
	}
	else { is($err, '', "no error") if $err ne ''; }
	$asked += 500;
}
cmp_ok($failed, '>', 0, 'ran out of memory');
is($node->safe_psql('postgres', 'SELECT optout.verify()'), '0', 'verify');
done_testing();
