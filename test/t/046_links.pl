# Aliases outlive prepared transactions, restarts, dumps and restores, and reach
# subscribers with the state table.  The update that adds their columns does not
# stop subscribers that lack them.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $settings = "shared_preload_libraries = 'optout'\nmax_prepared_transactions = 10\nwal_retrieve_retry_interval = '100ms'\n";
my $node = new_server('main', { allows_streaming => 'logical' }, $settings);
my $subscriber = new_server('subscriber', {}, $settings);

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll('{alice,bob,carol}'::text[]);
	SELECT optout.opt_out('alice')});

# The ids, whether each is stored, and how many checks fail.
my $answers = q{
	SELECT string_agg(u || ' ' || CASE WHEN optout.accepts(u) THEN 'in' ELSE 'out' END, ', ' ORDER BY u)
	  FROM unnest('{alice,a1,a2,bob,b1,carol,c1}'::text[]) AS u;
	SELECT optout.verify()};

sub answers
{
	my ($expected, $what, $server, $dbname) = @_;

	is(($server // $node)->safe_psql($dbname // 'postgres', $answers), "$expected\n0", $what);
}

# Prepared: nothing is to be seen of it, others wait for it, and a restart keeps it
$node->safe_psql('postgres', q{BEGIN; SELECT optout.link('alice', '{a1}'), optout.link('bob', '{b1}'); PREPARE TRANSACTION 'link'});
answers('a1 in, a2 in, alice out, b1 in, bob in, c1 in, carol in', 'link prepared');
$node->restart;
my $session = OptoutTest::Session->new($node);
my $other = OptoutTest::Session->new($node);
$session->begin(q{SELECT optout.opt_out('bob')});
$session->wait_for_lock($node);
$other->begin(q{SELECT optout.enroll('a1')});
$other->wait_for_lock($node);
answers('a1 in, a2 in, alice out, b1 in, bob in, c1 in, carol in', 'others wait for it');
$node->safe_psql('postgres', q{COMMIT PREPARED 'link'});
is(($session->finish)[0], 't', 'then bob is opted out');
like(($other->finish)[1], qr/ERROR:  23505: "a1" of organization "default" is an alias of user "alice"/, 'and the alias is not enrolled');
answers('a1 out, a2 in, alice out, b1 out, bob out, c1 in, carol in', 'link committed, and opt-out after it');

$node->safe_psql('postgres', q{BEGIN; SELECT optout.opt_in('bob'), optout.link('carol', '{c1}'); PREPARE TRANSACTION 'in'});
$session->begin(q{SELECT optout.unlink('{b1}', force => true)});
$session->wait_for_lock($node);
$other->begin(q{SELECT optout.link('alice', '{c1}')});
$other->wait_for_lock($node);
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'in'});
is(($session->finish)[0], '1', 'unlinked');
is(($other->finish)[0], '1', 'linked to another');
answers('a1 out, a2 in, alice out, b1 in, bob out, c1 out, carol in', 'opt-in and link rolled back');
$node->stop('immediate');
$node->start;
$_->quit for $session, $other;
answers('a1 out, a2 in, alice out, b1 in, bob out, c1 out, carol in', 'after a crash');

# Dumps
for my $options ([], ['-Fc'])
{
	my $name = @$options ? 'custom' : 'plain';
	my $file = $node->basedir . "/$name";

	$node->safe_psql('postgres', "CREATE DATABASE $name TEMPLATE template0");
	$node->command_ok([ 'pg_dump', @$options, '-f', $file, 'postgres' ], "$name: pg_dump");
	$node->command_ok(@$options ? [ 'pg_restore', '-e', '-1', '-d', $name, $file ] : [ 'psql', '-Xq1', '-v', 'ON_ERROR_STOP=1', '-d', $name, '-f', $file ], "$name: restore");
	answers('a1 out, a2 in, alice out, b1 in, bob out, c1 out, carol in', "$name: restored", $node, $name);
	is($node->safe_psql($name, q{SELECT a::text FROM optout.user_alias a ORDER BY alias}),
		$node->safe_psql('postgres', q{SELECT a::text FROM optout.user_alias a ORDER BY alias}), "$name: aliases");
	$node->safe_psql($name, q{SELECT optout.opt_in('alice')});
	answers('a1 in, a2 in, alice in, b1 in, bob out, c1 in, carol in', "$name: opted in", $node, $name);
}

# A subscriber of the columns that doc/fleet.md publishes
my ($publish) = slurp_file("$FindBin::RealBin/../../doc/fleet.md") =~ /^(CREATE PUBLICATION opt_outs .*?;)$/ms;
$node->safe_psql('postgres', $publish);
$subscriber->safe_psql('postgres', 'CREATE EXTENSION optout');
my $connection = 'host=' . $node->host . ' port=' . $node->port . ' dbname=postgres';
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION one CONNECTION '$connection' PUBLICATION opt_outs");
$node->safe_psql('postgres', q{SET optout.actor = 'secret'; SELECT optout.opt_in('alice', reason => 'secret'), optout.link('alice', '{a2}')});
$node->safe_psql('postgres', q{SET optout.actor = 'secret'; SELECT optout.opt_out('alice')});
$subscriber->poll_query_until('postgres', q{SELECT srsubstate = 'r' FROM pg_subscription_rel}) or die 'no copy';
$node->wait_for_catchup('one');
answers('a1 out, a2 out, alice out, b1 in, bob out, c1 out, carol in', 'subscriber', $subscriber);
is($subscriber->safe_psql('postgres', q{SELECT user_id FROM optout.opt_out_list ORDER BY 1}), "alice\nbob", 'its list is of persons');
is($subscriber->safe_psql('postgres', q{SELECT count(*) FROM optout.opt_out_period WHERE num_nonnulls(opted_out_actor, opted_in_actor, opted_in_reason) > 0}),
	'0', 'nothing else gets there');
$node->safe_psql('postgres', q{SELECT optout.unlink('{a2}', force => true); DELETE FROM optout.opt_out_period WHERE opted_in_at < now(); SELECT optout.opt_in('alice')});
$node->wait_for_catchup('one');
answers('a1 in, a2 in, alice in, b1 in, bob out, c1 in, carol in', 'subscriber, unlinked and opted in', $subscriber);

# The update stops where subscribers would
sub update_in
{
	my ($name, $prepare, $set) = @_;
	my $slot = $name =~ s/ /_/gr;

	$node->safe_psql('postgres', qq{CREATE DATABASE "$name"});
	$node->safe_psql($name, "CREATE EXTENSION optout VERSION '1.1'; SELECT optout.enroll('alice'), optout.opt_out('alice'); $prepare");
	$node->safe_psql($name, "SELECT pg_create_logical_replication_slot('$slot', 'pgoutput')") if $prepare !~ /no slot/;
	my $errors = errors_of($node, ($set // '') . 'ALTER EXTENSION optout UPDATE', dbname => $name);
	$node->safe_psql($name, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()");
	return $errors . $node->safe_psql($name, q{SELECT extversion FROM pg_extension WHERE extname = 'optout'});
}
my $stops = qr/ERROR:  55000: publication p sends all columns of table optout\.opt_out_period\n.*HINT:  Update optout on all subscribers first, .*1\.1$/s;
like(update_in('table', 'CREATE PUBLICATION p FOR TABLE optout.opt_out_period'), $stops, 'a publication of the table');
like(update_in('all', 'CREATE PUBLICATION p FOR ALL TABLES'), $stops, 'of all tables');
like(update_in('schema', 'CREATE PUBLICATION p FOR TABLES IN SCHEMA optout'), $stops, 'of the schema');
is(update_in('set', 'CREATE PUBLICATION p FOR ALL TABLES', 'SET optout.subscribers_updated = on;'), '1.2', 'unless they are updated');
is(update_in('columns', 'CREATE PUBLICATION p FOR TABLE optout.opt_out_period (organization, user_id, opted_out_at, opted_in_at, opted_out_by, opted_in_by)'),
	'1.2', 'not with a column list');
is(update_in('another table', 'CREATE PUBLICATION p FOR TABLE optout.product_user'), '1.2', 'not of another table');
is(update_in('no slot', 'CREATE PUBLICATION p FOR ALL TABLES -- no slot'), '1.2', 'not where nobody subscribes');
$node->safe_psql('postgres', 'CREATE DATABASE afresh');
$node->safe_psql('afresh', q{CREATE PUBLICATION p FOR ALL TABLES; SELECT pg_create_logical_replication_slot('afresh', 'pgoutput')});
$node->safe_psql('afresh', 'CREATE EXTENSION optout');
is($node->safe_psql('afresh', q{SELECT extversion FROM pg_extension WHERE extname = 'optout'}), '1.2', 'nor where the extension is new');
$node->safe_psql('afresh', 'DROP EXTENSION optout; BEGIN; SAVEPOINT s; CREATE EXTENSION optout; COMMIT');
is($node->safe_psql('afresh', q{SELECT extversion FROM pg_extension WHERE extname = 'optout'}), '1.2', 'after a savepoint, too');
$node->safe_psql('afresh', q{SELECT pg_drop_replication_slot('afresh')});

# An update by another superuser than the owner
$node->safe_psql('postgres', q{CREATE ROLE "The Owner" SUPERUSER; CREATE ROLE admin; CREATE DATABASE owned});
$node->safe_psql('owned', q{SET ROLE "The Owner"; CREATE EXTENSION optout VERSION '1.1'; SELECT optout.enroll('alice'); SELECT optout.grant_authority('admin', 'default', 'administer');
	RESET ROLE; ALTER EXTENSION optout UPDATE; ALTER ROLE "The Owner" NOSUPERUSER});
is($node->safe_psql('owned', q{SET ROLE admin; SELECT optout.opt_out('alice'), optout.link('alice', '{a1}'); SELECT aliases FROM optout.opt_out_list; SELECT alias FROM optout.aliases;
	SELECT optout.unlink('{a1}', force => true); RESET ROLE; SELECT optout.accepts('a1'), optout.verify();
	SELECT optout.revoke_authority('admin', 'default', 'administer')}), "t|1\n{a1}\na1\n1\nt|0\n", 'updated by another superuser than the owner');
is($node->safe_psql('owned', q{DROP ROLE admin}), '', 'nothing is left of a role whose authority is taken back');

$_->stop for $subscriber, $node;
done_testing();
