# Two short rounds of the leak hunt, with and without preloading the library, and
# one after a restart, when the shared filter is filled while opt-outs come:
# whatever happens at the same time, no event is stored that was sent after an
# acknowledged opt-out, none is discarded that was sent after an acknowledged
# opt-in, and the ledger knows of every one.  "make soak" does the same for longer,
# and has the scripts; nothing else of "make test" is in test/lab.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

if (system('pgbench --version >/dev/null 2>&1') != 0)
{
	plan skip_all => 'there is no pgbench';
}

my $hunt = "$FindBin::RealBin/../lab/soak/hunt";
my $node = new_server('main', {}, 'max_prepared_transactions = 20');

for my $preload ('', 'optout', 'optout')
{
	my ($out, $status);

	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$preload'");
	$node->restart;

	# on a busy machine nothing may have happened in time; that is no fault
	for my $seconds (2, 4, 8, 16)
	{
		local $ENV{PGHOST} = $node->host;
		local $ENV{PGPORT} = $node->port;
		IPC::Run::run([ $hunt, $seconds ], '>', \$out, '2>&1');
		$status = $?;
		my ($broken) = $out =~ /^ +rule .*\n-.*\n((?:.*\|.*\n)+)/m;
		last unless defined $broken && !grep { !/^ the round has proved nothing/ } split /\n/, $broken;
		note("nothing proved in $seconds seconds");
	}
	like($out, qr/^broken: 0$/m, "rounds, preloading '$preload'");
	is($status, 0, 'no program has failed');
}

$node->stop;
done_testing();
