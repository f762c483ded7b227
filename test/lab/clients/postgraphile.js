// postgraphile.js: PostGraphile, over the extension's own schema, over a guarded table,
// and over the schema of the page (page/page.sql), as several roles.
'use strict';
const { createPostGraphileSchema, withPostGraphileContext } = require('postgraphile');
const { graphql } = require('graphql');
const { Pool } = require('pg');

const events = ['alice', 'bob', 'carol', 'dave'];
const print = (...columns) => console.log(['postgraphile', ...columns].join(' | '));

async function open(user, schema, options) {
	const pool = new Pool({ user });
	const api = await createPostGraphileSchema(pool, [schema], { ignoreRBAC: false, ...options });
	const fields = (type) => Object.keys(type?.getFields() ?? {}).filter((f) => !['query', 'nodeId', 'node'].includes(f));
	return {
		pool,
		fields: () => [...fields(api.getQueryType()), ...fields(api.getMutationType())].sort(),
		ask: (source, pgSettings) => withPostGraphileContext({ pgPool: pool, pgSettings }, (contextValue) => graphql({ schema: api, source, contextValue })),
	};
}

async function extension() {
	const names = /optOut|optIn|enroll|forget|link|signIn|allUserLists|allOptOutLists/;
	for (const includeExtensionResources of [false, true]) {
		const { pool, fields } = await open('page', 'optout', { includeExtensionResources });
		print(`schema optout, includeExtensionResources ${includeExtensionResources}`, fields().filter((f) => names.test(f)).join(' ') || 'nothing');
		await pool.end();
	}
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
	await extension();
	await writer();
	await administrator();
})().catch((error) => { console.error(error); process.exit(1); });
