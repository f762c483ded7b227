# What the extension writes to the server's log, at the default settings, names
# nobody: neither itself nor by the statement or the context that goes with it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

# where the tests' server differs from the default
my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nautovacuum = off\nlog_statement = none\nlog_replication_commands = off\nlog_min_messages = warning\n");

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll('{alice,bob}'::text[]); SELECT optout.opt_out('alice');
	CREATE TABLE event (user_id text, what text);
	CREATE TABLE unguarded (LIKE event);
	SELECT optout.guard('event');
	CREATE FUNCTION store(u text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO event VALUES (u, 'bought'); END $$});
append_to_file($node->basedir . '/events', "alice\tbought\nbob\tbought\n");
my $file = $node->basedir . '/events';

# Whoever asks first adds the keys, and says so.
my @statements = (
	q{INSERT INTO event VALUES ('alice', 'bought'), ('bob', 'bought')},
	q{SELECT store('alice')},
	q{PREPARE p AS INSERT INTO event VALUES ($1, 'bought'); EXECUTE p ('alice')},
	"COPY event FROM '$file'",
	"COPY unguarded FROM '$file' WHERE optout.accepts(user_id)",
	q{SELECT optout.is_opted_out('alice')},
	q{DO $$ BEGIN PERFORM optout.accepts('alice'); END $$});
for my $statement (@statements)
{
	for my $how ('restart', 'VACUUM FULL')
	{
		$how eq 'restart' ? $node->restart : $node->safe_psql('postgres', 'VACUUM FULL optout.opt_out_period');
		my $offset = -s $node->logfile;
		$node->safe_psql('postgres', $statement);
		my $log = slurp_file($node->logfile, $offset);
		like($log, qr/LOG:  optout added the keys of \d+ rows/, "$how, $statement: said");
		unlike($log, qr/alice|bob|bought|STATEMENT|CONTEXT/, "$how, $statement: nobody is named");
	}
}

# errors that name an id do so as they are asked to
my $offset = -s $node->logfile;
like(errors_of($node, q{SELECT optout.opt_out('alcie')}), qr/user "alcie" is not enrolled/, 'an error that names an id');

$node->stop;
done_testing();
