// postgraphile.js: PostGraphile, over the extension's own schema, over a guarded table,
// and over the schema of the page (page/page.sql), as several roles.
'use strict';
const { createPostGraphileSchema, withPostGraphileContext } = require('postgraphile');
const { graphql } = require('graphql');
const { Pool } = require('pg');

const events = ['alice', 'bob', 'carol', 'dave'];
const print = (...columns) => console.log(['postgraphile', ...columns].join(' | '));

async function open(user, schema) {
	const pool = new Pool({ user });
	const api = await createPostGraphileSchema(pool, [schema], { ignoreRBAC: false });
	const fields = (type) => Object.keys(type?.getFields() ?? {}).filter((f) => !['query', 'nodeId', 'node'].includes(f));
	return {
		pool,
		fields: () => [...fields(api.getQueryType()), ...fields(api.getMutationType())].sort(),
		ask: (source, pgSettings) => withPostGraphileContext({ pgPool: pool, pgSettings }, (contextValue) => graphql({ schema: api, source, contextValue })),
	};
}

// what it shows of the extension, and of functions that have one name
async function shown() {
	const all = async (schema) => {
		const { pool, fields } = await open('postgres', schema);
		await pool.end();
		return fields().join(' ') || 'nothing';
	};
	print('schema optout', await all('optout'));
	const pool = new Pool({ user: 'postgres' });
	await pool.query(`CREATE SCHEMA overloaded;
		CREATE FUNCTION overloaded.opt_out(user_id text) RETURNS bigint LANGUAGE sql AS 'SELECT 1';
		CREATE FUNCTION overloaded.opt_out(user_ids text[]) RETURNS bigint LANGUAGE sql AS 'SELECT 1';
		CREATE FUNCTION overloaded.opt_out_users(user_ids text[]) RETURNS bigint LANGUAGE sql AS 'SELECT 1'`);
	print('opt_out twice, and opt_out_users', await all('overloaded'));
	await pool.query('DROP SCHEMA overloaded CASCADE');
	await pool.end();
}

async function writer() {
	const { pool, ask } = await open('writer', 'public');
	for (const [table, mutation, field] of [['event', 'createEvent', 'event'], ['event_in', 'createEventIn', 'eventIn']]) {
		const made = [];
		for (const user of events) {
			const { data } = await ask(`mutation { ${mutation}(input: { ${field}: { userId: "${user}" } }) { ${field} { userId } } }`);
			made.push(data[mutation][field] === null ? 'null' : data[mutation][field].userId);
		}
		const { rows: [t] } = await pool.query('SELECT * FROM tally()');
		print(`${mutation}, ${table}`, events.length, made.join(', '), t.stored, t.discarded);
	}
	await pool.end();
}

async function administrator() {
	const { pool, fields, ask } = await open('page', 'opt_out_page');
	const acme = { role: 'acme_admin', 'optout.organization': 'acme', 'optout.actor': 'admin@acme.example' };
	const list = '{ allUserChoices(orderBy: USER_ID_ASC) { nodes { userId } } allOptedOuts(orderBy: USER_ID_ASC) { nodes { userId } } }';
	const users = (nodes) => nodes.map((n) => n.userId).join(' ') || 'nobody';
	const lists = async (settings) => {
		const { data, errors } = await ask(list, settings);
		return errors ? [errors[0].message] : [`choice ${users(data.allUserChoices.nodes)}`, `opted out ${users(data.allOptedOuts.nodes)}`];
	};
	const change = async (mutation, ids) => {
		const { data, errors } = await ask(
			`mutation { ${mutation}(input: { userIds: ${JSON.stringify(ids)}, reason: "works council" }) { bigInt } }`, acme);
		return errors ? [errors[0].message, errors[0].originalError.code, errors[0].originalError.hint] : [`bigInt ${data[mutation].bigInt}`];
	};
	print('schema opt_out_page', fields().join(' '));
	print('lists', ...await lists(acme));
	print('optOutUsers of two', ...await change('optOutUsers', ['ann', 'bob']));
	print('lists', ...await lists(acme));
	print('optInUsers of two', ...await change('optInUsers', ['ann', 'bob']));
	print('optOutUsers of two, one unknown', ...await change('optOutUsers', ['bob', 'bobby']));
	print('lists', ...await lists(acme));
	print('optOutUsers of one', ...await change('optOutUsers', ['bob']));
	print('lists without a role', ...await lists({ 'optout.organization': 'acme' }));
	print('lists of another organization', ...await lists({ ...acme, 'optout.organization': 'globex' }));
	await pool.end();
}

(async () => {
	await shown();
	await writer();
	await administrator();
})().catch((error) => { console.error(error); process.exit(1); });
