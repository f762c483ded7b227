# Two short rounds of the leak hunt, with and without preloading the library, and
# one after a restart, when the shared filter is filled while opt-outs come:
# whatever happens at the same time, no event is stored that was sent after an
# acknowledged opt-out, none is discarded that was sent after an acknowledged
# opt-in, and the ledger knows of every one.  "make soak" does the same for longer.
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
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$preload'");
	$node->restart;
	$node->command_like([ $hunt, 2 ], qr/^broken: 0$/m, "a round, preloading '$preload'");
}

$node->stop;
done_testing();
