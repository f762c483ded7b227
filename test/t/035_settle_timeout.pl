# settle() with a timeout waits that long for whoever has asked the filter, and no
# longer; the error names those who have not ended.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {}, "shared_preload_libraries = 'optout'\nmax_prepared_transactions = 2");

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll('{alice,bob}'::text[]);
	CREATE TABLE event (user_id text);
	SELECT optout.guard('event')});

my ($first, $second, $settler) = map { OptoutTest::Session->new($node) } 1 .. 3;

# nobody has asked
is($settler->query("CALL optout.settle('0')"), '', 'nobody to wait for');

# two have, and one of them only looked at the list
$first->query("BEGIN; INSERT INTO event VALUES ('alice')");
$second->query("BEGIN; SELECT optout.is_opted_out('alice')");
my $error = $settler->query_fails("CALL optout.settle('0')");
like($error, qr/55000: transactions that may have asked the filter have not ended within 00:00:00$/m, 'at once');
like($error, qr/^DETAIL:  Still running: process ${\$first->pid}\.$/m, 'at once: whom it would have to wait for');
$second->query("SELECT optout.accepts('bob')");
$error = $settler->query_fails("CALL optout.settle(timeout => '100 ms')");
like($error, qr/55000: .* within 00:00:00\.1$/m, 'time is over');
my @pids = sort ($first->pid, $second->pid);
is(join(' ', sort($error =~ /process (\d+)/g)), "@pids", 'time is over: both are named');
like($settler->query_fails("CALL optout.settle('-1 day')"), qr/55000/, 'a negative timeout: at once');
is($settler->query('SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid() AND NOT granted'), 0, 'nobody waits for it');

# whoever is changing the list cannot be told from those who have asked
my $administrator = OptoutTest::Session->new($node);
$administrator->query("BEGIN; SELECT optout.opt_out('bob')");
like($settler->query_fails("CALL optout.settle('0')"), qr/process ${\$administrator->pid}\b/, 'an opt-out that is under way');
$administrator->query('ROLLBACK');
$administrator->quit;

# they end in time
$settler->begin("CALL optout.settle('1 hour')");
$first->query('COMMIT');
is(join('', $settler->poll), '', 'it waits for the other one, too');
$second->query('ROLLBACK');
is(join('', $settler->finish), '', 'they have ended in time');

# it can be cancelled
$first->query("BEGIN; INSERT INTO event VALUES ('alice')");
$settler->begin("CALL optout.settle('1 hour')");
$node->poll_query_until('postgres', q{SELECT query ~ 'settle' AND state = 'active' AND wait_event = 'Extension' FROM pg_stat_activity WHERE pid = } . $settler->pid);
$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $settler->pid . ')');
like(($settler->finish)[1], qr/57014/, 'cancelled');
$settler->query("SET statement_timeout = '50ms'");
like($settler->query_fails("CALL optout.settle('1 hour')"), qr/57014/, 'statement timeout');
$settler->query('RESET statement_timeout');

# a prepared transaction, before and after a restart
$first->query(q{PREPARE TRANSACTION 'p'});
my $xid = $node->safe_psql('postgres', 'SELECT transaction FROM pg_prepared_xacts');
like($settler->query_fails("CALL optout.settle('0')"), qr/Still running: prepared transaction $xid\./, 'prepared transaction');
$first->query("BEGIN; INSERT INTO event VALUES ('alice')");
like($settler->query_fails("CALL optout.settle('0')"), qr/Still running: (?=.*prepared transaction $xid)(?=.*process ${\$first->pid})/,
	'prepared transaction, and another of the same session');
$_->quit for $first, $second, $settler;
$node->restart;
$settler = OptoutTest::Session->new($node);
like($settler->query_fails("CALL optout.settle('0')"), qr/Still running: prepared transaction $xid\./, 'prepared transaction, restarted');
$settler->begin("CALL optout.settle('1 hour')");
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
is(join('', $settler->finish), '', 'it has been committed in time');
is($settler->query('SELECT count(*) FROM event'), 2, 'and is there');
$settler->quit;

$node->stop;
done_testing();
