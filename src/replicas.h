/*
 * replicas.h
 *		Which other servers receive this one's opt-outs.
 */
#ifndef OPTOUT_REPLICAS_H
#define OPTOUT_REPLICAS_H

extern void replicas_define_settings(void);

#endif							/* OPTOUT_REPLICAS_H */
