// prisma.js: Prisma, whose create() gives the object that RETURNING gives.
'use strict';
const { PrismaClient } = require('./generated');
const { PrismaPg } = require('@prisma/adapter-pg');

const events = ['alice', 'bob', 'carol', 'dave'];
const data = events.map((user_id) => ({ user_id }));
const db = new PrismaClient({ adapter: new PrismaPg({ user: 'writer' }) });

async function tell(way, offered, reported) {
	const [t] = await db.$queryRaw`SELECT * FROM tally()`;
	console.log(['prisma', way, offered, reported, t.stored, t.discarded].join(' | '));
}
const name = (object) => object === null ? 'null' : object.user_id;
const names = (objects) => objects.map(name).join(', ');

(async () => {
	for (const [table, model] of [['event', db.event], ['event_in', db.eventIn]]) {
		const made = [];
		for (const event of data)
			made.push(await model.create({ data: event }));
		await tell(`create, ${table}`, 4, names(made));
		await tell(`$transaction of create, ${table}`, 4, names(await db.$transaction(data.map((event) => model.create({ data: event })))));
		await tell(`createMany, ${table}`, 4, `count ${(await model.createMany({ data })).count}`);
		await tell(`createManyAndReturn, ${table}`, 4, names(await model.createManyAndReturn({ data })));
	}
	const upsert = db.event.upsert({ where: { id: 1000 }, create: data[0], update: {} });
	await tell('upsert, event', 1, await upsert.then(name, (error) => `${error.name} ${error.code}`));
	await db.$disconnect();
})().catch((error) => { console.error(error); process.exit(1); });
